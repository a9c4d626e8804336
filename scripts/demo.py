"""Run the whole pipeline, through Cog's own server, on a public-domain photo with stand-in weights.

Downloads no weights. Writes build/demo/astronaut.png and, beside it, astronaut-restored.png.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

import skimage.data
from PIL import Image

from harness import predicting
from harness.terminal import Progress
from restoration.standin import write_standins

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "build" / "demo"

STOOD_IN = """\
What is real here: the photo (NASA, public domain), Cog's server, the predictor, the full-size networks, the pipeline.
What is stood in for:
  * the weights: GFPGAN passes the face through at half resolution, ParseNet calls everything face, and Real-ESRGAN
    repeats pixels, so the face comes out softer, not better. `make predict IMG=photo.jpg` restores with the real ones.
  * the detection: no detector can be a stand-in, so the face of this one photo is on record (RetinaFace found it).
"""


def main() -> int:
    """Make what the demo needs, then do what `make predict` does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(STOOD_IN, flush=True)
    weights, photo = DEMO / "weights", DEMO / "astronaut.png"
    write_standins(weights)
    Image.fromarray(skimage.data.astronaut()).save(photo)
    os.chdir(ROOT)
    os.environ |= {"RESTORATION_WEIGHTS": str(weights), "RESTORATION_DETECTOR": "recorded"}
    answer = asyncio.run(restore(photo))
    print(answer.error or answer.output)
    return answer.status != "succeeded"


async def restore(photo: Path) -> predicting.Answer:
    """Restore on a model server of its own: one that is up would have other weights."""
    with Progress("starting the model") as progress:
        async with predicting.started() as server:
            progress.now("predicting")
            began = time.monotonic()
            answer = await predicting.predict(server, predicting.Request({"img": f"@{photo}"}), progress.logs)
            progress.say(predicting.summary(answer.metrics, time.monotonic() - began))
            return answer


if __name__ == "__main__":
    sys.exit(main())
