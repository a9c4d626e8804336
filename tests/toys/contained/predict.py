"""A toy model that says where it finds itself, and misbehaves on demand."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def predict(
        self,
        read: str = Input(default="", description="File whose text is the answer"),
        write: str = Input(default="", description="File to write"),
        sleep_s: float = Input(default=0, description="How long to take"),
        allocate_mib: int = Input(default=0, description="Memory to use"),
    ) -> str:
        print("predicting")
        if write:
            Path(write).write_text("written")
        if read:
            return Path(read).read_text()
        time.sleep(float(sleep_s))
        used = bytearray(os.urandom(1 << 20) * int(allocate_mib))
        return json.dumps({"user": os.getuid(), "used": len(used)})
