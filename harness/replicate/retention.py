"""Forgetting: what nothing refers to after a crash, and with --retention what the hosted service forgets."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, select

from harness.replicate import files, ids, predictions
from harness.replicate.database import Database
from harness.replicate.files import Blobs
from harness.replicate.settings import Settings
from harness.replicate.tables import files as table


async def keep_tidy(database: Database, blobs: Blobs, settings: Settings) -> None:
    """Forget what is due, again and again, until cancelled; at once return when nothing ever is."""
    keep_s = settings.rehearsals.retention_s
    if keep_s is None:
        return
    while True:
        await forget(database, blobs, keep_s)
        await asyncio.sleep(min(60.0, keep_s / 10))


async def forget(database: Database, blobs: Blobs, keep_s: float) -> None:
    """Remove the data of what ended more than `keep_s` seconds ago, and uploads that have expired."""
    unneeded = await database.write(lambda c: _forget(c, ids.later(-keep_s), ids.now()))
    for sha256 in unneeded:
        await asyncio.to_thread(blobs.path(sha256).unlink, missing_ok=True)


def _forget(connection: Connection, completed_before: str, now: str) -> list[str]:
    forgotten = predictions.remove_data(connection, completed_before)
    due = table.c.prediction_id.in_(forgotten) | (table.c.expires_at < now)
    return files.remove(connection, list(connection.execute(select(table.c.id).where(due)).scalars()))


def sweep(connection: Connection, blobs: Blobs) -> None:
    """Remove contents that no row names: their prediction was refused or cut short. Only while nothing is accepted."""
    known = set(connection.execute(select(table.c.sha256).distinct()).scalars())
    for path in blobs.folder.glob("??/*"):
        if path.name not in known:
            path.unlink()
