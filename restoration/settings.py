"""What an operator may configure, in one place; callers of the model get the inputs of `predict.py` instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from restoration.errors import ConfigurationError

DetectorName = Literal["resnet50", "mobilenet0.25", "recorded"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
ParserSide = Literal[512, 256]
_CHOICES = {"detector": DetectorName, "device": Device, "precision": Precision, "parser_side": ParserSide}

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """The engine's configuration. Each field is read from the environment variable `RESTORATION_<FIELD>`."""

    weights: Path = field(
        default=REPOSITORY / "weights",
        metadata={"meaning": "directory of checkpoint files and the manifest that lists them"},
    )
    detector: DetectorName = field(
        default="resnet50", metadata={"meaning": "or mobilenet0.25; recorded looks faces up, for demos and tests"}
    )
    device: Device = field(default="auto", metadata={"meaning": "cpu or cuda; auto takes CUDA where there is a GPU"})
    precision: Precision = field(
        default="auto",
        metadata={"meaning": "fp32, bf16 or fp16; auto takes bf16, else fp16, where the device computes in it"},
    )
    parser_side: ParserSide = field(
        default=512,
        metadata={"meaning": "512 or 256: pixels a side of a face that ParseNet sees; 256 takes a quarter of its time"},
    )
    cache: Path | None = field(
        default=None,
        metadata={"meaning": "directory for converted models; unset: `.converted` beside the weights, or `~/.cache`"},
    )
    max_input_bytes: int = field(default=100 * 1024 * 1024, metadata={"meaning": "of the photo's file"})
    max_input_megapixels: float = field(default=50, metadata={"meaning": "of the photo; checked before it is decoded"})
    max_output_megapixels: float = field(default=200, metadata={"meaning": "of the result"})
    max_network_bytes: int = field(
        default=2 * 1024**3, metadata={"meaning": "of face networks kept loaded; beyond it the least used one goes"}
    )

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value, allowed = getattr(self, name), get_args(choices)
            if value not in allowed:
                known = ", ".join(map(str, allowed))
                raise ConfigurationError(f"RESTORATION_{name.upper()} is {value!r}; use one of {known}.")
        for limit in ("max_input_bytes", "max_input_megapixels", "max_output_megapixels", "max_network_bytes"):
            if getattr(self, limit) <= 0:
                raise ConfigurationError(f"RESTORATION_{limit.upper()} must be above 0, not {getattr(self, limit)}.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read every set `RESTORATION_<FIELD>`; raises `ConfigurationError` for a value that makes no sense."""
        given: dict[str, Any] = {}
        for each in fields(cls):
            variable = f"RESTORATION_{each.name.upper()}"
            if text := environment.get(variable):
                parse: Callable[[str], Any] = type(each.default)
                try:
                    given[each.name] = Path(text).absolute() if each.name in ("weights", "cache") else parse(text)
                except ValueError as error:
                    raise ConfigurationError(f"{variable} is {text!r}; give a number.") from error
        return cls(**given)
