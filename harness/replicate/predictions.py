"""Predictions and trainings as rows, and every change of their state as a function on a store connection.

starting -> processing -> succeeded | failed | canceled; a queued one may also end as canceled or, with a deadline,
aborted. Nothing leaves a terminal state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, Row, bindparam, func, insert, select, update

from harness.errors import Problem
from harness.replicate import ids
from harness.replicate.tables import JsonValue, models, predictions

TERMINAL: Final = frozenset({"succeeded", "failed", "canceled", "aborted"})
_LIVE: Final = ("starting", "processing")
_table = predictions.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One row of `predictions`, which may be a training; tables.py explains the columns."""

    id: str
    kind: str
    model: str
    version: str
    input: dict[str, Any]
    stream_path: str
    base_url: str
    created_at: str
    status: str = "starting"
    number: int = 0
    deployment: str | None = None
    destination: str | None = None
    output: Any = None
    error: str | None = None
    logs: str = ""
    metrics: dict[str, Any] | None = None
    started_at: str | None = None
    completed_at: str | None = None
    deadline: str | None = None
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None
    data_removed: bool = False
    inline_outputs: bool = False
    cancel_requested: bool = False
    fingerprint: str | None = None
    attempts: int = 0
    losses: int = 0

    @property
    def terminal(self) -> bool:
        """Whether it has ended for good."""
        return self.status in TERMINAL


_NAMES = [field.name for field in fields(Prediction)]
_COLUMNS = [predictions.c[name] for name in _NAMES]


def _from(row: Row[Any]) -> Prediction:
    return Prediction(**row._mapping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which rows of a list are asked for: newest first, `before` or `after` a row's number."""

    size: int
    before: int | None = None
    after: int | None = None
    created_after: str | None = None
    created_before: str | None = None


# Statements are built once: building one costs more than running it.
_INSERT = insert(predictions)
_NTH_QUEUED = (
    select(_table.number).where(_table.status == "starting").order_by(_table.number).offset(bindparam("n")).limit(1)
)
_COUNT_RUN = (
    update(models)
    .where(models.c.owner + "/" + models.c.name == bindparam("model"))
    .values(run_count=models.c.run_count + 1)
)
_GET = select(*_COLUMNS).where(_table.id == bindparam("id"), _table.kind == bindparam("kind"))
_LIVE_ROW = (_table.id == bindparam("row_id"), _table.status.in_(_LIVE))
_RUNNING_ROW = (_table.id == bindparam("row_id"), _table.status == "processing")
_CLAIM = (
    update(predictions)
    .where(_table.number == select(func.min(_table.number)).where(_table.status == "starting").scalar_subquery())
    .values(status="processing", started_at=bindparam("now"), attempts=_table.attempts + 1)
    .returning(*_COLUMNS)
)
_ADD_LOGS = (
    update(predictions)
    .where(*_RUNNING_ROW)
    .values(logs=func.substr(_table.logs + bindparam("piece"), 1, bindparam("limit")))
    .returning(*_COLUMNS)
)
_TIMES = select(_table.created_at, _table.started_at, _table.logs).where(*_LIVE_ROW)
_ENDING = ("status", "output", "error", "logs", "completed_at", "metrics")
_FINISH = (
    update(predictions)
    .where(*_LIVE_ROW)
    .values({name: bindparam(f"new_{name}", type_=_table[name].type) for name in _ENDING})
    .returning(*_COLUMNS)
)
_REQUEUE = (
    update(predictions)
    .where(*_RUNNING_ROW)
    .values(status="starting", started_at=None, logs="", losses=_table.losses + bindparam("lost"))
    .returning(*_COLUMNS)
)


def accept(connection: Connection, prediction: Prediction, max_queued: int) -> Prediction:
    """Store a new prediction as the last of the queue; raises Problem 503 when the queue is full."""
    if connection.execute(_NTH_QUEUED, {"n": max_queued - 1}).first() is not None:
        detail = f"The queue already holds {max_queued} predictions; try again later, or raise --max-queued."
        raise Problem(503, detail, title="Queue full", headers={"Retry-After": "5"})
    values = {name: getattr(prediction, name) for name in _NAMES if name != "number"}
    connection.execute(_INSERT, values)
    connection.execute(_COUNT_RUN, {"model": prediction.model})
    return prediction


def get(connection: Connection, prediction_id: str, kind: str = "prediction") -> Prediction | None:
    """Return one row, or None."""
    return _one(connection.execute(_GET, {"id": prediction_id, "kind": kind}))


def joined(connection: Connection, fingerprint: str, since: str) -> Prediction | None:
    """Return the newest prediction made by an identical request after `since`, or None."""
    same = select(*_COLUMNS).where(_table.fingerprint == fingerprint, _table.created_at >= since)
    row = connection.execute(same.order_by(_table.number.desc()).limit(1)).first()
    return None if row is None else _from(row)


def page(connection: Connection, kind: str, wanted: Page) -> tuple[list[Prediction], bool]:
    """Return the rows of a page, newest first, and whether there are more in the direction asked for."""
    query = select(*_COLUMNS).where(_table.kind == kind)
    if wanted.created_after is not None:
        query = query.where(_table.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(_table.created_at < wanted.created_before)
    if wanted.before is not None:
        query = query.where(_table.number < wanted.before)
    if wanted.after is not None:
        query = query.where(_table.number > wanted.after)
    order = _table.number if wanted.after is not None else _table.number.desc()
    rows = [_from(row) for row in connection.execute(query.order_by(order).limit(wanted.size + 1))]
    more, rows = len(rows) > wanted.size, rows[: wanted.size]
    return (rows[::-1] if wanted.after is not None else rows), more


def claim(connection: Connection) -> Prediction | None:
    """Take the oldest queued prediction to run it, or None when nothing waits."""
    return _one(connection.execute(_CLAIM, {"now": ids.now()}))


def add_logs(connection: Connection, prediction_id: str, piece: str, limit: int) -> Prediction | None:
    """Append to the logs of a running prediction, up to `limit` characters in all."""
    return _one(connection.execute(_ADD_LOGS, {"row_id": prediction_id, "piece": piece, "limit": limit}))


def request_cancel(connection: Connection, prediction_id: str, kind: str, queued_end: str) -> Prediction | None:
    """End a queued prediction as `queued_end`, mark a running one; returns the row as it now is, None if unknown.

    The mark outlives a crash: what was cancelled does not run again.
    """
    mine = (_table.id == prediction_id, _table.kind == kind)
    connection.execute(update(predictions).where(*mine, _table.status == "processing").values(cancel_requested=True))
    prediction = get(connection, prediction_id, kind)
    if prediction is None or prediction.status != "starting":
        return prediction
    return finish(connection, prediction_id, queued_end)


def finish(
    connection: Connection,
    prediction_id: str,
    status: str,
    *,
    output: JsonValue = None,
    error: str | None = None,
    logs: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Prediction | None:
    """Move a live prediction to a terminal state; None when it has ended before. `logs` replace, None keeps them."""
    row = connection.execute(_TIMES, {"row_id": prediction_id}).first()
    if row is None:
        return None
    ended = ids.now()
    ending = {
        "row_id": prediction_id,
        "new_status": status,
        "new_output": output,
        "new_error": error,
        "new_logs": row.logs if logs is None else logs,
        "new_completed_at": ended,
        "new_metrics": _metrics(metrics or {}, row.created_at, row.started_at, ended),
    }
    return _one(connection.execute(_FINISH, ending))


def _metrics(measured: Mapping[str, Any], created: str, started: str | None, ended: str) -> dict[str, Any]:
    times = {"total_time": ids.seconds_between(created, ended)}
    if started is not None:
        times["predict_time"] = ids.seconds_between(started, ended)
    return {**times, **measured}


def requeue(connection: Connection, prediction_id: str, *, lost: bool) -> Prediction | None:
    """Put a running prediction back to its old place in the queue; `lost` counts a model server lost under it."""
    return _one(connection.execute(_REQUEUE, {"row_id": prediction_id, "lost": int(lost)}))


def waiting(connection: Connection) -> bool:
    """Return whether anything is queued."""
    return connection.execute(_NTH_QUEUED, {"n": 0}).first() is not None


def interrupted(connection: Connection) -> list[Prediction]:
    """Return what ran when the last process ended."""
    running = select(*_COLUMNS).where(_table.status == "processing").order_by(_table.number)
    return [_from(row) for row in connection.execute(running)]


def with_deadline(connection: Connection) -> list[Prediction]:
    """Return every live prediction that has a deadline."""
    live = select(*_COLUMNS).where(_table.status.in_(_LIVE), _table.deadline.is_not(None))
    return [_from(row) for row in connection.execute(live)]


def remove_data(connection: Connection, completed_before: str) -> list[str]:
    """Forget inputs, outputs and logs of what ended before then; returns the ids."""
    old = (_table.status.in_(TERMINAL), _table.data_removed.is_(False), _table.completed_at < completed_before)
    change = update(predictions).where(*old).values(data_removed=True, input={}, output=None, logs="")
    return list(connection.execute(change.returning(_table.id)).scalars())


def _one(result: CursorResult[Any]) -> Prediction | None:
    row = result.first()
    return None if row is None else _from(row)
