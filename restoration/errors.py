"""What can go wrong in the engine. Every class has a stable code; every message is one sentence with the remedy.

RestorationError
├── InputError              the caller's photo or inputs
│   ├── UnreadableImage     NOT_AN_IMAGE          empty, truncated, corrupt, or no picture at all
│   ├── UnsupportedFormat   UNSUPPORTED_FORMAT    a picture, but of a format or mode that is not taken
│   ├── TooLarge            TOO_LARGE             over a limit on bytes or pixels, in or out
│   └── InvalidInput        INVALID_INPUT         an input outside its documented values
├── WeightsError            the checkpoint files
│   ├── WeightsMissing      WEIGHTS_MISSING
│   └── WeightsCorrupt      WEIGHTS_CORRUPT
├── ConfigurationError      CONFIGURATION         a setting outside its documented values
├── DeviceUnavailable       DEVICE_UNAVAILABLE    a device was asked for that this machine lacks
├── OutOfMemory             OUT_OF_MEMORY         also with the smallest batches and tiles
└── NotANumber              NOT_A_NUMBER          a network's result is beyond its precision
"""

from __future__ import annotations

from typing import ClassVar


class RestorationError(Exception):
    """Base of everything the engine raises on purpose; `str(error)` is `[CODE] sentence`."""

    code: ClassVar[str] = "RESTORATION"

    def __str__(self) -> str:
        return f"[{self.code}] {super().__str__()}"


class InputError(RestorationError):
    """The photo or an input of the call cannot be used; another one can."""

    code = "INPUT"


class UnreadableImage(InputError):
    """The bytes are empty, truncated, corrupt, or no picture at all."""

    code = "NOT_AN_IMAGE"


class UnsupportedFormat(InputError):
    """The bytes are a picture of a format or pixel mode that is not taken."""

    code = "UNSUPPORTED_FORMAT"


class TooLarge(InputError):
    """The photo or its result is over a limit; the message names it."""

    code = "TOO_LARGE"


class InvalidInput(InputError):
    """An input lies outside its documented values."""

    code = "INVALID_INPUT"


class WeightsError(RestorationError):
    """A checkpoint file cannot be used."""

    code = "WEIGHTS"


class WeightsMissing(WeightsError):
    """A checkpoint file, or the manifest that lists it, is not there."""

    code = "WEIGHTS_MISSING"


class WeightsCorrupt(WeightsError):
    """A checkpoint file is not the one that the manifest lists."""

    code = "WEIGHTS_CORRUPT"


class ConfigurationError(RestorationError):
    """A setting lies outside its documented values."""

    code = "CONFIGURATION"


class DeviceUnavailable(RestorationError):
    """A device was asked for that this machine does not have."""

    code = "DEVICE_UNAVAILABLE"


class OutOfMemory(RestorationError):
    """The device ran out of memory, also with the smallest batches and tiles."""

    code = "OUT_OF_MEMORY"


class NotANumber(RestorationError):
    """A network's result is beyond what its precision can hold: a black face, were it written."""

    code = "NOT_A_NUMBER"
