"""What clients see of rows: Replicate's JSON objects, every key present, null where unknown."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from harness.replicate.predictions import Prediction
from harness.replicate.tables import JsonValue

Json = dict[str, Any]
FILE = "$file"  # a stored value {"$file": {...}} stands for a file, see files.StoredFile.reference


def dumps(value: object) -> bytes:
    """Return compact JSON ending in a newline, as the hosted service writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def with_urls(value: JsonValue, base_url: str) -> JsonValue:
    """Return `value` with references to files replaced by their capability URLs."""
    match value:
        case {"$file": {"id": str(file_id), "name": str(name)}}:
            return delivery_url(base_url, file_id, name)
        case dict():
            return {key: with_urls(item, base_url) for key, item in value.items()}
        case list():
            return [with_urls(item, base_url) for item in value]
    return value


def delivery_url(base_url: str, file_id: str, name: str) -> str:
    """Return the URL that a file's contents have for ever; it needs no credentials."""
    return f"{base_url}/delivery/{file_id}/{quote(name, safe='')}"


def prediction(row: Prediction, base_url: str) -> Json:
    """Return a prediction as JSON values, its files as URLs below `base_url`."""
    own = f"{base_url}/v1/predictions/{row.id}"
    return {
        "id": row.id,
        "model": row.model,
        "version": row.version,
        "input": with_urls(row.input, base_url),
        "output": with_urls(row.output, base_url),
        "logs": row.logs,
        "error": row.error,
        "status": row.status,
        "source": "api",
        "data_removed": row.data_removed,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "completed_at": row.completed_at,
        "deadline": row.deadline,
        "deployment": row.deployment,
        "metrics": row.metrics or {},
        "webhook": row.webhook,
        "webhook_events_filter": row.webhook_events_filter,
        "urls": {"get": own, "cancel": f"{own}/cancel", "web": own, "stream": base_url + row.stream_path},
    }


def training(row: Prediction, base_url: str) -> Json:
    """Return a training as JSON values."""
    own = f"{base_url}/v1/trainings/{row.id}"
    return {
        "id": row.id,
        "model": row.model,
        "version": row.version,
        "destination": row.destination,
        "input": row.input,
        "output": row.output,
        "logs": row.logs,
        "error": row.error,
        "status": row.status,
        "source": "api",
        "created_at": row.created_at,
        "started_at": row.started_at,
        "completed_at": row.completed_at,
        "metrics": row.metrics or {},
        "webhook": row.webhook,
        "webhook_events_filter": row.webhook_events_filter,
        "urls": {"get": own, "cancel": f"{own}/cancel"},
    }


def of(row: Prediction, base_url: str) -> Json:
    """Return a prediction or training, whichever it is, as JSON values."""
    return training(row, base_url) if row.kind == "training" else prediction(row, base_url)


def page(results: list[Json], previous: str | None = None, next_page: str | None = None) -> Json:
    """Return one page of a list."""
    return {"previous": previous, "next": next_page, "results": results}
