"""Run the whole pipeline, through Cog's own server, on a public-domain photo with stand-in weights.

Downloads no weights. Writes build/demo/astronaut.png and, beside it, astronaut-restored.png.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import skimage.data
from PIL import Image

from restoration.standin import write_standins

DEMO = Path(__file__).resolve().parent.parent / "build" / "demo"

STOOD_IN = """\
What is real here: the photo (NASA, public domain), Cog's server, the predictor, the full-size networks, the pipeline.
What is stood in for:
  * the weights: GFPGAN passes the face through at half resolution, ParseNet calls everything face, and Real-ESRGAN
    repeats pixels, so the face comes out softer, not better. `make predict IMG=photo.jpg` restores with the real ones.
  * the detection: no detector can be a stand-in, so the face of this one photo is on record (RetinaFace found it).
"""


def main() -> int:
    """Make what the demo needs, then call the model as `make predict` does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(STOOD_IN, flush=True)
    weights, photo = DEMO / "weights", DEMO / "astronaut.png"
    write_standins(weights)
    Image.fromarray(skimage.data.astronaut()).save(photo)
    environment = {**os.environ, "RESTORATION_WEIGHTS": str(weights), "RESTORATION_DETECTOR": "recorded"}
    command = [sys.executable, "-m", "harness.cli", "predict", "-i", f"img=@{photo}", "--runtime", "process"]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own command


if __name__ == "__main__":
    sys.exit(main())
