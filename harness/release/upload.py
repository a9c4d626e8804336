"""Build the model's image and push it: with `cog push` where the cog command is installed, else with Docker alone.

Docker alone is for plain registries; the image has the same `run.cog.*` labels. Pushing again what a registry has
already costs seconds: layers that arrived before a failure stay there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import schema
from harness.errors import CredentialRefused, RegistryFailed, UsageError
from harness.image import OLDEST_COG, Request, build, cog_version
from harness.registry import is_loopback

REPLICATE: Final = "r8.im"
"""Replicate's registry."""

TRIES: Final = 3
PAUSE_S: Final = 2.0

_DIGEST: Final = re.compile(r"@(sha256:[0-9a-f]{64})\b")
_UNAUTHORISED: Final = re.compile(r"unauthori[sz]ed|authentication required|no basic auth|denied|forbidden", re.I)
_LASTING: Final = re.compile(r"not found|unable to find|invalid|does not exist", re.I)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Upload:
    """What to push where: the folder, and the image's full name ("HOST/owner/name")."""

    root: Path
    image: str

    @property
    def host(self) -> str:
        """The registry."""
        return self.image.partition("/")[0]


def registry_host() -> str:
    """Return the registry that models are pushed to: COG_REGISTRY_HOST, as for cog itself, else Replicate's."""
    return os.environ.get("COG_REGISTRY_HOST") or REPLICATE


def builder(upload: Upload) -> str:
    """Say what would build and push: "cog" or "docker". Raises UsageError when cog is needed and missing or old."""
    found = cog_version()
    if found is not None and found >= OLDEST_COG:
        return "cog"
    if upload.host == REPLICATE:
        what = "too old" if found else "not installed"
        oldest = ".".join(map(str, OLDEST_COG))
        raise UsageError(f"The cog command is {what}, and {REPLICATE} needs cog {oldest} or newer: https://cog.run")
    return "docker"


def check_login(host: str) -> None:
    """Raise CredentialRefused unless Docker's configuration holds a login for the registry; it is not tried out."""
    if is_loopback(host):
        return
    from docker.auth import load_config  # slow to import
    from docker.errors import DockerException

    try:
        login = load_config().resolve_authconfig(host)
    except DockerException as error:
        raise CredentialRefused(
            f"Docker's stored logins cannot be read; log in again: {login_command(host)}"
        ) from error
    if not login:
        raise CredentialRefused(f"There is no login for the registry {host}; log in: {login_command(host)}")
    if str(login.get("Password") or login.get("password") or "").startswith("r8_"):
        raise CredentialRefused(
            f"The login for {host} is an API token (r8_...), which the registry refuses; log in: {login_command(host)}"
        )


def login_command(host: str) -> str:
    """Return the command that logs in to a registry."""
    if host == REPLICATE:
        return "cog login   # with the token from https://replicate.com/auth/token, which is no r8_ API token"
    return f"docker login {host}"


def push(upload: Upload, say: Say) -> str:
    """Build and push; returns the digest ("sha256:...") that the registry has then.

    Raises:
        CredentialRefused: the registry refuses the login.
        RegistryFailed: the push failed, after a few tries where trying again may help; running it again resumes it.
        BuildFailed, SchemaError, UsageError, DockerError: there is no image to push.
    """
    if builder(upload) == "cog":
        schema.write(upload.root / schema.SCHEMA_FILE, root=upload.root)
        once = _push_with_cog
    else:
        say("The cog command is not installed: Docker builds and pushes the image, with the same labels.")
        build(Request(upload.root, upload.image))
        once = _push_with_docker
    for attempt in range(1, TRIES):
        try:
            return once(upload)
        except _Interrupted as error:
            say(f"{error} Try {attempt + 1} of {TRIES}.")
            time.sleep(PAUSE_S * attempt)
    return once(upload)


def _push_with_cog(upload: Upload) -> str:
    command = [shutil.which("cog") or "cog", "push", upload.image, "--separate-weights"]
    inherited = {name: value for name, value in os.environ.items() if name != "REPLICATE_API_TOKEN"}  # cog needs none
    environment = inherited | {"COG_OPENAPI_SCHEMA": str(schema.SCHEMA_FILE), "COG_NO_UPDATE_CHECK": "1"}
    lines: list[str] = []
    with subprocess.Popen(  # noqa: S603 # our own arguments
        command,
        cwd=upload.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None  # as asked for
        for line in process.stderr:
            sys.stderr.write(line)
            lines.append(line)
    said = "".join(lines)
    if process.returncode != 0:
        raise _failed(upload, said, f"cog push ended with exit code {process.returncode}")
    found = _DIGEST.findall(said)
    if not found:
        raise RegistryFailed("cog push succeeded without naming the digest it pushed; use the pinned version of cog.")
    return str(found[-1])


def _push_with_docker(upload: Upload) -> str:
    from harness.docker_engine import connected  # slow to import

    with connected() as client:
        return _digest_of(upload, client.api.push(upload.image, tag="latest", stream=True, decode=True))


def _digest_of(upload: Upload, events: Iterator[dict[str, object]]) -> str:
    """Read the stream of a push, the only place where the engine tells of failures."""
    digest = None
    for event in events:
        if error := event.get("error"):
            raise _failed(upload, str(error), f"The push to {upload.host} failed")
        if isinstance(aux := event.get("aux"), dict):
            digest = aux.get("Digest", digest)
    if digest is None:
        raise _Interrupted(f"The push to {upload.host} ended without a digest; run the same command again.")
    return str(digest)


def _failed(upload: Upload, said: str, what: str) -> CredentialRefused | RegistryFailed:
    last = (said.strip().splitlines() or ["no reason given"])[-1].strip().rstrip(".")
    if _UNAUTHORISED.search(said):
        return CredentialRefused(f"The registry {upload.host} refuses the login; log in: {login_command(upload.host)}")
    if _LASTING.search(last):
        return RegistryFailed(f"{what}: {last}.")
    return _Interrupted(f"{what}: {last}; run the same command again, it goes on where it stopped.")


class _Interrupted(RegistryFailed):
    """The network or the registry failed in the middle; what arrived stays there."""
