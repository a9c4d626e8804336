"""What can go wrong around the model. Every class has a stable code; every message is one sentence with the remedy.

HarnessError
├── WeightsDownloadError        WEIGHTS_DOWNLOAD     a weights file could not be fetched intact
├── SchemaError                 SCHEMA               the predictor's signature cannot be described
├── ModelServerError            MODEL_SERVER         a model server
│   ├── SetupFailed             SETUP_FAILED         its setup raised, or never ended
│   ├── NotReady                NOT_READY            it is still starting
│   ├── Busy                    BUSY                 every slot stayed taken
│   ├── Unreachable             UNREACHABLE          nothing answers, or not in time
│   ├── TimedOut                TIMED_OUT            a prediction went beyond its time limit
│   ├── Crashed                 CRASHED              its worker died
│   └── InputRejected           INPUT_REJECTED       inputs that its schema forbids
├── PredictionFailed            PREDICTION_FAILED    the model answered, with a failure
├── FetchFailed                 FETCH_FAILED         an input's URL cannot be fetched
│   └── AddressRefused          ADDRESS_REFUSED      it, or a webhook's, leads where it must not
├── StoreInUse                  STORE_IN_USE         another process owns the local Replicate's store
├── Problem                     PROBLEM              a request that the local Replicate refuses
├── DockerError                 DOCKER               the Docker Engine
│   ├── EngineMissing           DOCKER_NO_ENGINE     none answers, or not to this user
│   ├── ImageMissing            DOCKER_NO_IMAGE      the engine has no such image
│   ├── BuildFailed             DOCKER_BUILD         an image could not be built
│   ├── GpuMissing              DOCKER_NO_GPU        the engine cannot give a container a GPU
│   ├── PortTaken               DOCKER_PORT_TAKEN    something else listens on the port
│   └── OutOfMemory             DOCKER_OUT_OF_MEMORY a container went beyond its memory
└── UsageError                  USAGE                a command or option that makes no sense
"""

from __future__ import annotations

from typing import ClassVar


class HarnessError(Exception):
    """Base of everything the harness raises on purpose; `str(error)` is one sentence."""

    code: ClassVar[str] = "HARNESS"


class WeightsDownloadError(HarnessError):
    """A weights file could not be fetched intact."""

    code = "WEIGHTS_DOWNLOAD"


class SchemaError(HarnessError):
    """The predictor's signature cannot be described as a Cog schema."""

    code = "SCHEMA"


class ModelServerError(HarnessError):
    """A model server did not do what it should."""

    code = "MODEL_SERVER"


class SetupFailed(ModelServerError):
    """The predictor's setup raised, or did not end within its time."""

    code = "SETUP_FAILED"


class NotReady(ModelServerError):
    """The model server is still starting."""

    code = "NOT_READY"


class Busy(ModelServerError):
    """Every prediction slot stayed taken for as long as the caller would wait."""

    code = "BUSY"


class Unreachable(ModelServerError):
    """Nothing answers at the model server's address, or not in time."""

    code = "UNREACHABLE"


class TimedOut(ModelServerError):
    """A prediction did not end within its time limit."""

    code = "TIMED_OUT"


class Crashed(ModelServerError):
    """The model server's worker died; the server must be restarted."""

    code = "CRASHED"


class InputRejected(ModelServerError):
    """The model server's schema forbids these inputs."""

    code = "INPUT_REJECTED"


class PredictionFailed(HarnessError):
    """The model ran and answered with a failure."""

    code = "PREDICTION_FAILED"


class StoreInUse(HarnessError):
    """Another process owns the local Replicate's store."""

    code = "STORE_IN_USE"


class Problem(HarnessError):
    """A request that the local Replicate refuses: an HTTP status and the members of a problem+json body.

    `hint` is ours: it says what would work here. Extra members are those of Replicate's known bodies.
    """

    code = "PROBLEM"

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **members: object) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self.body: dict[str, object] = {**members, "detail": detail, "status": status}


class FetchFailed(HarnessError):
    """The file behind an input's URL cannot be had within the limits."""

    code = "FETCH_FAILED"


class AddressRefused(FetchFailed):
    """A URL leads to an address that the local Replicate must not connect to."""

    code = "ADDRESS_REFUSED"


class DockerError(HarnessError):
    """The Docker Engine is absent, refused, or lacks something."""

    code = "DOCKER"


class EngineMissing(DockerError):
    """No Docker Engine answers, or it does not answer this user."""

    code = "DOCKER_NO_ENGINE"


class ImageMissing(DockerError):
    """The Docker Engine has no such image."""

    code = "DOCKER_NO_IMAGE"


class BuildFailed(DockerError):
    """An image could not be built; what the builder wrote says why."""

    code = "DOCKER_BUILD"


class GpuMissing(DockerError):
    """The Docker Engine cannot give a container a GPU."""

    code = "DOCKER_NO_GPU"


class PortTaken(DockerError):
    """Something else listens on the port that a container should have."""

    code = "DOCKER_PORT_TAKEN"


class OutOfMemory(DockerError):
    """A process in a container was killed because memory ran out."""

    code = "DOCKER_OUT_OF_MEMORY"


class UsageError(HarnessError):
    """A command or option that makes no sense here."""

    code = "USAGE"
