"""The SQLite store: opening, migrating, reading, and writing with many small changes in one commit.

WAL with synchronous=FULL: what `write` returned for is on the disk. Only one process may own a store.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from harness.errors import StoreInUse

T = TypeVar("T")
Job = Callable[[Connection], T]
_MIGRATIONS = Path(__file__).parent / "migrations"
_BATCH = 256  # changes in one commit, at most


@dataclass(slots=True)
class _Change:
    job: Job[object]
    future: asyncio.Future[object]


class Database:
    """The store of one local Replicate, shared by its coroutines; `open` before use, `close` after."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._writer = _engine(path, "BEGIN IMMEDIATE", pool_size=1)
        self._readers = _engine(path, "BEGIN", pool_size=4)
        self._lock: FileLock | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Lock the store for this process, bring its schema up to date and start writing; raises StoreInUse."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path.with_suffix(".lock"))
        migrate(self._writer)
        self._thread = threading.Thread(target=self._write_batches, name="store-writer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the changes under way, then let go of the files."""
        if self._thread is not None:
            self._changes.put(None)
            self._thread.join()
        self._writer.dispose()
        self._readers.dispose()
        if self._lock is not None:
            self._lock.release()

    async def read(self, job: Job[T]) -> T:
        """Return what `job` makes of one consistent snapshot of the store."""
        return await asyncio.to_thread(self._read, job)

    def write(self, job: Job[T]) -> Awaitable[T]:
        """Hand in a change, all or nothing; the awaitable ends when it is on the disk, or with what `job` raised.

        Changes are applied in the order of the calls, also before anybody awaits them. `job` runs in another thread.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._changes.put(_Change(job, future))  # type: ignore[arg-type]  # the future gets what this very job returns
        return future

    def _read(self, job: Job[T]) -> T:
        with self._readers.begin() as connection:
            return job(connection)

    def _write_batches(self) -> None:
        while batch := self._next_batch():
            _resolve(self._commit(batch))

    def _next_batch(self) -> list[_Change]:
        """Wait for one change and take all that are waiting with it; empty when the store closes."""
        batch: list[_Change] = []
        change = self._changes.get()
        while change is not None:
            batch.append(change)
            if len(batch) == _BATCH or self._changes.empty():
                return batch
            change = self._changes.get()
        self._changes.put(None)  # for the next call, after this last batch
        return batch

    def _commit(self, batch: list[_Change]) -> list[tuple[_Change, object]]:
        try:
            with self._writer.begin() as connection:
                return [(change, _apply(connection, change.job)) for change in batch]
        except Exception as error:  # every caller must hear of it: nothing of the batch was kept
            return [(change, _Failure(error)) for change in batch]


@dataclass(slots=True, frozen=True)
class _Failure:
    error: Exception


def _apply(connection: Connection, job: Job[object]) -> object:
    """Run one change of a batch so that its failure undoes itself and nothing else."""
    connection.exec_driver_sql("SAVEPOINT change")
    try:
        result = job(connection)
    except OperationalError:  # such as a full disk: SQLite may have ended the transaction, so the batch is over
        raise
    except Exception as error:  # belongs to the caller of this change only
        connection.exec_driver_sql("ROLLBACK TO change")
        result = _Failure(error)
    connection.exec_driver_sql("RELEASE change")
    return result


def _resolve(outcomes: list[tuple[_Change, object]]) -> None:
    """Wake the coroutines of a batch, one call for each event loop."""
    for loop in {change.future.get_loop() for change, _ in outcomes}:
        own = [(change.future, result) for change, result in outcomes if change.future.get_loop() is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_results, own)


def _set_results(outcomes: list[tuple[asyncio.Future[object], object]]) -> None:
    for future, result in outcomes:
        if future.done():  # its caller has gone; the change stands
            continue
        if isinstance(result, _Failure):
            future.set_exception(result.error)
        else:
            future.set_result(result)


def migrate(engine: Engine) -> None:
    """Bring the schema of the store behind `engine` to the newest version."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _engine(path: Path, begin: str, *, pool_size: int) -> Engine:
    engine = create_engine(f"sqlite:///{path}", pool_size=pool_size, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: object, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # transactions are begun below, not by sqlite3
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]  # a sqlite3 connection

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _lock(path: Path) -> FileLock:
    lock = FileLock(path, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreInUse(
            f"The store {path.parent} belongs to a running local Replicate: stop that one, or choose another --data."
        ) from error
    return lock
