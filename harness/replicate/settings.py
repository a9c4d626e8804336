"""Every limit and choice of the local Replicate, in one object with safe defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.service import HOME

GFPGAN_VERSIONS = (
    "0fbacf7afc6c144e5be9767cff80f25aff23e52b0708f17e20f9879b2f21516c",
    "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3",
)  # of tencentarc/gfpgan, in wide use in published code

Outputs = Literal["auto", "http", "data", "https"]
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsals:
    """What the hosted service does to its callers, switched on to see how client code takes it."""

    cold_boot_s: float = 0.0
    rate_limit_per_min: int | None = None
    fail_rate: float = 0.0
    fail_seed: int = 0
    retention_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one local Replicate; seconds and bytes."""

    data: Path = HOME / "replicate"
    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None  # origin for the URLs in answers, where it differs from the request's Host
    token: str | None = None  # the only token accepted; None: any that is not empty
    strict: bool = False  # refuse what the hosted service would refuse
    model: str = "tencentarc/gfpgan"
    version_aliases: tuple[str, ...] = GFPGAN_VERSIONS
    username: str = "local"
    outputs: Outputs = "auto"
    rehearsals: Rehearsals = Rehearsals()

    max_queued: int = 10_000
    max_body: int = 140 * MIB  # of JSON: a photo as a data URL grows by a third
    max_upload: int = 100 * 1000 * 1000
    max_sent: int = 72 * MIB  # of files in one prediction: Cog takes 100 MiB of JSON, base64 included
    max_logs: int = MIB
    inline_input: int = 8 * 1024  # longer data URLs become files
    inline_output: int = 5 * 1000 * 1000  # larger files are never turned into data URLs by `auto`
    max_wait_s: float = 60.0
    max_run_s: float = 30 * 60.0
    join_s: float = 10 * 60.0  # how long a retried POST joins the prediction of its first try
    page: int = 100
    stop_s: float = 10.0  # how long a stopping server waits for what is under way

    fetch_bytes: int = 100 * MIB
    fetch_s: float = 60.0
    fetch_redirects: int = 5
    allow_private: tuple[str, ...] = ()  # networks or hosts that inputs and webhooks may name although private
    webhook_timeout_s: float = 15.0
    webhook_throttle_s: float = 0.5

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in {"127.0.0.1", "::1", "localhost"}

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.data / "store.sqlite"

    @property
    def tls(self) -> Path:
        """The folder of certificates."""
        return self.data / "tls"

    @property
    def blobs(self) -> Path:
        """The folder of file contents."""
        return self.data / "blobs"
