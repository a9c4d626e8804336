"""The tables of the store. Times are `ids.timestamp` strings, which sort; JSON columns hold no file contents."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, Table, Text, TextClause, text

JsonValue = Any  # what a JSON column holds, at any depth

metadata = MetaData()


def _json(name: str) -> Column[object]:
    return Column(name, JSON(none_as_null=True))


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("0"))


def _text(name: str, *, unique: bool = False, server_default: TextClause | None = None) -> Column[str]:
    return Column(name, Text, nullable=False, unique=unique, server_default=server_default)


predictions = Table(
    "predictions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # order of acceptance: the queue's and the lists'
    _text("id", unique=True),
    _text("kind"),  # prediction | training
    _text("status"),
    _text("model"),
    _text("version"),
    Column("deployment", Text),
    Column("destination", Text),  # trainings only
    _json("input"),  # long data URLs are replaced by references to files
    _json("output"),  # files are references, see outputs.py
    Column("error", Text),
    _text("logs", server_default=text("''")),
    _json("metrics"),
    _text("created_at"),
    Column("started_at", Text),
    Column("completed_at", Text),
    Column("deadline", Text),
    Column("webhook", Text),
    _json("webhook_events_filter"),
    _flag("data_removed"),
    _flag("inline_outputs"),  # SDKs get data URLs for the whole life of this prediction
    _flag("cancel_requested"),
    _text("stream_path"),  # of its event stream: unguessable, it needs no credentials
    _text("base_url"),  # the origin its creator used; webhooks carry URLs below it
    Column("fingerprint", Text),  # of the creating request, to join its retries
    Column("attempts", Integer, nullable=False, server_default=text("0")),  # how often it was started
    Column("losses", Integer, nullable=False, server_default=text("0")),  # how often its model server was lost
)
Index("predictions_queued", predictions.c.number, sqlite_where=predictions.c.status == "starting")
Index("predictions_running", predictions.c.number, sqlite_where=predictions.c.status == "processing")
Index("predictions_created", predictions.c.created_at)
Index("predictions_fingerprint", predictions.c.fingerprint, sqlite_where=predictions.c.fingerprint.is_not(None))

webhook_messages = Table(
    "webhook_messages",  # the outbox: a row is written in the transaction of the change that it announces
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    _text("id", unique=True),  # the webhook-id header, the same for every attempt
    _text("prediction_id"),
    _text("event"),  # start | output | logs | completed
    _text("url"),
    _text("body"),  # exactly what is sent
    _text("created_at"),
    _text("state", server_default=text("'pending'")),  # pending | delivered | failed
    Column("due_at", Text),  # when to try next; null once settled
    Column("attempts", Integer, nullable=False, server_default=text("0")),
)
Index("webhook_messages_due", webhook_messages.c.due_at, sqlite_where=webhook_messages.c.state == "pending")
Index("webhook_messages_prediction", webhook_messages.c.prediction_id)

webhook_deliveries = Table(
    "webhook_deliveries",  # one row for each attempt
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    _text("message_id"),
    Column("attempt", Integer, nullable=False),
    _text("sent_at"),
    Column("duration_ms", Float),
    _json("request_headers"),
    Column("response_status", Integer),
    _json("response_headers"),
    Column("response_body", Text),
    Column("error", Text),
    Column("diagnosis", Text),
)
Index("webhook_deliveries_message", webhook_deliveries.c.message_id)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),  # unguessable: knowing it is the permission to read it
    _text("kind"),  # upload | input | output
    Column("prediction_id", Text),
    _text("name"),
    _text("content_type"),
    Column("size", Integer, nullable=False),
    _text("sha256"),  # where the contents are, see files.py
    _text("md5"),
    _json("metadata"),
    _text("created_at"),
    _text("expires_at"),
)
Index("files_sha256", files.c.sha256)
Index("files_prediction", files.c.prediction_id)
Index("files_created", files.c.created_at)

models = Table(
    "models",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("description", Text),
    Column("readme", Text),
    _text("visibility"),
    _text("hardware"),
    Column("github_url", Text),
    Column("paper_url", Text),
    Column("license_url", Text),
    Column("weights_url", Text),
    Column("cover_image_url", Text),
    Column("run_count", Integer, nullable=False, server_default=text("0")),
    _text("created_at"),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Text, primary_key=True),
    _text("model"),  # owner/name
    _text("created_at"),
    _text("cog_version"),
    _json("openapi_schema"),
)
Index("versions_model", versions.c.model, versions.c.created_at)

deployments = Table(
    "deployments",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("number", Integer, nullable=False),  # of the current release
    _text("model"),
    _text("version"),
    _text("hardware"),
    Column("min_instances", Integer, nullable=False),
    Column("max_instances", Integer, nullable=False),
    _text("created_at"),
    _text("released_at"),
    Column("used_at", Text),
)
