"""The store: migrations, changes that commit together, one owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, func, insert, select

from harness.errors import Problem, StoreInUse
from harness.replicate.database import Database, migrate
from harness.replicate.tables import metadata, models

Use = Callable[[Database], Coroutine[Any, Any, None]]


def use(path: Path, job: Use) -> None:
    """Run `job` with an open store."""

    async def run() -> None:
        database = Database(path)
        await asyncio.to_thread(database.open)
        try:
            await job(database)
        finally:
            await asyncio.to_thread(database.close)

    asyncio.run(run())


def add(name: str) -> Callable[[Connection], None]:
    row = {"owner": "o", "name": name, "visibility": "public", "hardware": "cpu", "created_at": "now"}

    def change(connection: Connection) -> None:
        connection.execute(insert(models).values(row))
        if name == "bad":
            raise Problem(409, "no")

    return change


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(models)).scalar_one()


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'store.sqlite'}")
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_migrated_store_opens_again_with_what_was_in_it(tmp_path: Path) -> None:
    async def write(database: Database) -> None:
        await database.write(add("kept"))

    async def read(database: Database) -> None:
        assert await database.read(count) == 1

    use(tmp_path / "store.sqlite", write)
    use(tmp_path / "store.sqlite", read)


def test_a_failing_change_takes_nothing_with_it_and_leaves_nothing(tmp_path: Path) -> None:
    async def job(database: Database) -> None:
        names = ["a", "bad", "b", "a"]  # the second "a" breaks a constraint
        results = await asyncio.gather(*(database.write(add(name)) for name in names), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["NoneType", "Problem", "NoneType", "IntegrityError"]
        assert await database.read(count) == 2

    use(tmp_path / "store.sqlite", job)


def test_changes_handed_in_before_closing_are_kept(tmp_path: Path) -> None:
    async def hand_in(database: Database) -> None:
        for number in range(1000):
            database.write(add(f"m{number}"))

    async def read(database: Database) -> None:
        assert await database.read(count) == 1000

    use(tmp_path / "store.sqlite", hand_in)
    use(tmp_path / "store.sqlite", read)


def test_a_store_has_one_owner_and_says_so(tmp_path: Path) -> None:
    async def job(database: Database) -> None:
        with pytest.raises(StoreInUse, match="--data"):
            Database(tmp_path / "store.sqlite").open()

    use(tmp_path / "store.sqlite", job)


def test_commits_survive_a_power_cut(tmp_path: Path) -> None:
    async def job(database: Database) -> None:
        def pragmas(connection: Connection) -> list[Any]:
            return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]

        assert await database.write(pragmas) == ["wal", 2]

    use(tmp_path / "store.sqlite", job)
