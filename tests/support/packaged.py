"""Names for the real predictor with stand-in weights; `packaged_model` makes it."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TAG = "gfpgan-cog-test/model"
RECORDED = {"RESTORATION_DETECTOR": "recorded", "RESTORATION_DEVICE": "cpu"}  # no detector can be a stand-in
