"""Real Cog servers with toy predictors."""

from __future__ import annotations

from pathlib import Path

TOYS = Path(__file__).parents[2] / "toys"
