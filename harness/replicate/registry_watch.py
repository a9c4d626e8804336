"""Versions that were pushed to a registry on this machine, taken up by digest and served from their own images.

As on the hosted service: the model must exist first, the digest of the pushed image is the version's id, the schema is
the image's `run.cog.openapi_schema` label, and a container of the image answers its predictions.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from harness.errors import HarnessError, PredictionFailed
from harness.model_server.client import Outcome
from harness.model_server.supervisor import Supervisor
from harness.registry import Image, Registry
from harness.replicate import ids
from harness.replicate.catalogue import Served
from harness.replicate.database import Database
from harness.replicate.model_servers import Runs, Supervised
from harness.replicate.tables import models, versions

POLL_S: Final = 1.0
READY_S: Final = 600.0

NO_MODEL: Final[dict[str, Any]] = {"components": {"schemas": {"Input": {"type": "object"}, "Output": {}}}}
"""The document of a local Replicate that serves nothing but what is pushed."""

_log = logging.getLogger(__name__)


class Pushed:
    """The versions taken up from one registry; `served` has what requests need to know of each."""

    def __init__(self, database: Database, host: str | None, logs: Path, own_model: str) -> None:
        """host: the registry, None for no pushed versions. own_model: the one that comes from no registry."""
        self.served: dict[str, Served] = {}
        self._database = database
        self._host = host
        self._logs = logs
        self._own_model = own_model
        self._servers: dict[str, Supervised] = {}
        self._starting = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._told: set[str] = set()

    async def recall(self) -> None:
        """Know again what an earlier process took up, unless there is no registry to have its images from."""
        if self._host is None:
            return
        known = select(versions).where(versions.c.model != self._own_model)
        for row in await self._database.read(lambda c: c.execute(known).all()):
            self.served[row.id] = Served.pushed(row.model, row.id, row.openapi_schema)

    async def run(self) -> None:
        """Take up what is pushed, until cancelled; the containers end with it. Returns at once without a registry."""
        if self._host is not None:
            async with self._stack:
                self._servers.clear()  # of an earlier run that failed
                await self._watch(self._host)

    async def server(self, version: str) -> Runs:
        """Return the READY model server of a pushed version, started at its first prediction. Raises SetupFailed."""
        async with self._starting:
            if version not in self._servers:
                supervisor = Supervisor(await asyncio.to_thread(self._container, version))
                self._servers[version] = Supervised(await self._stack.enter_async_context(supervisor))
        server = self._servers[version]
        await server.wait_ready(READY_S)
        return server

    async def _watch(self, host: str) -> None:
        registry = Registry(host)
        try:
            while True:
                names = await self._database.read(_model_names)
                for model in names:
                    if model != self._own_model:
                        await self._look(registry, model)
                await asyncio.sleep(POLL_S)
        finally:
            registry.close()

    async def _look(self, registry: Registry, model: str) -> None:
        """Take up the newest image of a model, unless it is known."""
        try:
            digest = await asyncio.to_thread(registry.digest, model)
            if digest is not None and digest.removeprefix("sha256:") not in self.served:
                await self._take_up(model, await asyncio.to_thread(registry.image, model, digest))
        except (HarnessError, OperationalError, ValueError, LookupError, TypeError) as error:
            self._tell_once(f"{model}: no version was made of what was pushed: {error}")

    async def _take_up(self, model: str, image: Image) -> None:
        version = image.digest.removeprefix("sha256:")
        document = json.loads(image.labels["run.cog.openapi_schema"])
        served = Served.pushed(model, version, document)
        cog_version = image.labels["run.cog.version"]
        row = {"id": version, "model": model, "created_at": ids.now(), "cog_version": cog_version}
        change = sqlite.insert(versions).values(**row, openapi_schema=document).on_conflict_do_nothing()
        await self._database.write(lambda c: c.execute(change))
        self.served[version] = served
        _log.info("took up version %s of %s", version, model)

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.warning("%s", text)

    def _container(self, version: str) -> Any:  # noqa: ANN401 - a Runtime, whose module imports docker
        from harness.docker_engine import connected  # slow to import
        from harness.model_server.container import ServerContainer

        image = f"{self._host}/{self.served[version].model}@sha256:{version}"
        with connected() as client:
            client.images.pull(image)
        return ServerContainer(image, self._logs / f"{version[:12]}.log", f"pushed-{version[:12]}")


class NoModel:
    """In place of a model server where only pushed versions are served: it gives the runner its one slot."""

    async def wait_ready(self, timeout_s: float) -> object:
        """Return at once."""
        return None

    async def run(
        self,
        prediction_id: str,
        input: dict[str, Any],
        *,
        on_logs: Callable[[str], None] | None = None,
        timeout_s: float = 600.0,
    ) -> Outcome:
        """Raise PredictionFailed."""
        raise PredictionFailed("This local Replicate serves pushed versions only; name one of them.")

    async def schema(self) -> dict[str, Any]:
        """Return NO_MODEL."""
        return NO_MODEL


def _model_names(connection: Connection) -> list[str]:
    return list(connection.execute(select(models.c.owner + "/" + models.c.name)).scalars())
