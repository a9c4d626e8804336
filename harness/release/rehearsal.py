"""A rehearsal of the push without an account: a registry on this machine, and a local Replicate that takes up from it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.errors import CredentialRefused, RegistryFailed, ReplicateFailed
from harness.registry import Registry, is_loopback
from harness.release.account import Account, Retries

REGISTRY: Final = "127.0.0.1:5055"
"""Where `scripts/docker-engine up` has its registry."""

STARTS_S: Final = 60.0
STOPS_S: Final = 60.0


def registry_host() -> str:
    """Return the registry of rehearsals, which REGISTRY names. Raises RegistryFailed unless one answers."""
    host = os.environ.get("REGISTRY") or REGISTRY
    if not is_loopback(host):
        raise RegistryFailed(f"A rehearsal stays on this machine, and REGISTRY names {host}; unset it.")
    registry = Registry(host)
    try:
        registry.check()
    except RegistryFailed as error:
        start = f"scripts/docker-engine up, or docker run -d -p {host}:5000 registry:2"
        raise RegistryFailed(f"No registry answers at {host}; start one: {start}") from error
    finally:
        registry.close()
    return host


@contextmanager
def local_replicate(data: Path, registry: str) -> Iterator[Account]:
    """Run a local Replicate that serves what is pushed to `registry`, and give an account of it.

    data: its directory; server.log in it says what happened. Raises ReplicateFailed when it does not start.
    """
    data.mkdir(parents=True, exist_ok=True)
    port, token = _free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "harness", "serve", "--registry", registry, "--port", str(port)]
    log = data / "server.log"
    with (
        log.open("ab") as output,
        subprocess.Popen(  # noqa: S603 # our own arguments
            [*command, "--data", str(data)],
            env=os.environ | {"HARNESS_TOKEN": token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        account = Account(token, f"http://127.0.0.1:{port}", Retries(poll_s=0.2, pause_s=0.2))
        try:
            _wait_until_it_answers(account, process, log)
            yield account
        finally:
            account.close()
            _stop(process)


def _wait_until_it_answers(account: Account, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            account.username()
        except CredentialRefused:
            break  # somebody else's server has the port
        except ReplicateFailed:
            continue
        return
    raise ReplicateFailed(f"The local Replicate did not start; {log} says why.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOPS_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
