"""What an operator may configure, in one place; callers of the model get the inputs of `predict.py` instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from restoration.errors import ConfigurationError

DetectorName = Literal["resnet50", "mobilenet0.25", "recorded"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """The engine's configuration. Each field is read from the environment variable `RESTORATION_<FIELD>`."""

    weights: Path = REPOSITORY / "weights"
    """A weights directory: checkpoint files and the `manifest.toml` that lists them."""
    detector: DetectorName = "resnet50"
    """`recorded` looks faces up in `recorded_detections.json` of the weights directory, for demos and tests."""
    device: Device = "auto"
    """`auto` takes CUDA where there is a GPU."""
    precision: Precision = "auto"
    """What the networks compute in; `auto` takes bf16 where the device has it. Everything around them is the same."""
    cache: Path | None = None
    """Where a CPU's converted models are kept; by default beside the weights, or in the user's cache directory."""
    max_input_bytes: int = 100 * 1024 * 1024
    max_input_megapixels: float = 50
    max_output_megapixels: float = 200
    max_network_bytes: int = 2 * 1024**3
    """The parameters of face networks kept loaded; beyond it the least recently used one is let go."""

    def __post_init__(self) -> None:
        for name, choices in (("detector", DetectorName), ("device", Device), ("precision", Precision)):
            value, allowed = getattr(self, name), get_args(choices)
            if value not in allowed:
                raise ConfigurationError(f"RESTORATION_{name.upper()} is {value!r}; use one of {', '.join(allowed)}.")
        for limit in ("max_input_bytes", "max_input_megapixels", "max_output_megapixels", "max_network_bytes"):
            if getattr(self, limit) <= 0:
                raise ConfigurationError(f"RESTORATION_{limit.upper()} must be above 0, not {getattr(self, limit)}.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read every set `RESTORATION_<FIELD>`; raises `ConfigurationError` for a value that makes no sense."""
        given: dict[str, Any] = {}
        for field in fields(cls):
            variable = f"RESTORATION_{field.name.upper()}"
            if text := environment.get(variable):
                parse: Callable[[str], Any] = type(cls.__dict__[field.name])
                try:
                    given[field.name] = Path(text).absolute() if field.name in ("weights", "cache") else parse(text)
                except ValueError as error:
                    raise ConfigurationError(f"{variable} is {text!r}; give a number.") from error
        return cls(**given)
