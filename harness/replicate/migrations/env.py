"""Alembic's entry point: the caller hands over the connection to migrate (see database.py)."""

from __future__ import annotations

from alembic import context

from harness.replicate.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
