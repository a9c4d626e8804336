"""Commands around the local Replicate: `serve`, `predictions`, `webhooks`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from harness.errors import UsageError
from harness.replicate.settings import Rehearsals, Settings
from harness.replicate.tables import JsonValue
from harness.service import Plan

if TYPE_CHECKING:
    from harness.replicate.service import Service

predictions = typer.Typer(help="What the local Replicate ran, and doing it again.", no_args_is_help=True)
webhooks = typer.Typer(help="What the local Replicate told its callers, and telling it again.", no_args_is_help=True)

Url = Annotated[str, typer.Option(help="The local Replicate.", envvar="HARNESS_REPLICATE_URL")]
Token = Annotated[str, typer.Option(help="An API token.", envvar="REPLICATE_API_TOKEN", show_default=False)]
_ANYBODY = "  Anybody who reaches this address can use it and see what it holds: set --token.\n"
_URL = "http://127.0.0.1:8000"
_TOKEN = "r8_local"  # noqa: S105  # any token does, unless the server was started with its own

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class OutputMode(StrEnum):
    """How files in outputs are given to clients."""

    auto = "auto"
    http = "http"
    data = "data"
    https = "https"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    data: Annotated[Path | None, typer.Option(help="Directory of the store and the files.")] = None,
    token: Annotated[str | None, typer.Option(help="The only token to accept.", envvar="HARNESS_TOKEN")] = None,
    public_url: Annotated[str | None, typer.Option(help="Origin that clients reach this server under.")] = None,
    model: Annotated[str, typer.Option(help="Name to serve the model as, OWNER/NAME.")] = Settings.model,
    model_server: Annotated[list[str] | None, typer.Option(help="URL of a running model server; repeatable.")] = None,
    runtime: Annotated[str, typer.Option(help="Of model servers to start: auto, process or docker.")] = "auto",
    image: Annotated[str | None, typer.Option(help="The image to run in Docker; default: the one made here.")] = None,
    gpus: Annotated[str | None, typer.Option(help="all, none, or indices like 0,1; default: all there are.")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="How many model servers to start.")] = 1,
    outputs: Annotated[OutputMode, typer.Option(help="Files in outputs; https: the whole API.")] = OutputMode.auto,
    strict: Annotated[bool, typer.Option(help="Refuse what the hosted service would refuse.")] = False,
    max_queued: Annotated[int, typer.Option(help="Predictions that may wait.")] = Settings.max_queued,
    allow_private: Annotated[list[str] | None, typer.Option(help="Network that URLs may lead to, as CIDR.")] = None,
    cold_boot: Annotated[str, typer.Option(help="Rehearse: how long a first prediction waits, like 20s.")] = "0s",
    rate_limit: Annotated[str | None, typer.Option(help="Rehearse: creations a minute, like 6/min.")] = None,
    fail_rate: Annotated[float, typer.Option(help="Rehearse: share of predictions that fail.", min=0, max=1)] = 0.0,
    retention: Annotated[str | None, typer.Option(help="Rehearse: forget data after this long, like 1h.")] = None,
) -> None:
    """Start the model and a local Replicate in front of it."""
    rehearsals = Rehearsals(
        cold_boot_s=seconds(cold_boot),
        rate_limit_per_min=None if rate_limit is None else per_minute(rate_limit),
        fail_rate=fail_rate,
        retention_s=None if retention is None else seconds(retention),
    )
    settings = Settings(
        host=host,
        port=port,
        token=token,
        public_url=public_url,
        model=model,
        outputs=outputs.value,
        strict=strict,
        max_queued=max_queued,
        allow_private=tuple(allow_private or ()),
        rehearsals=rehearsals,
        **({} if data is None else {"data": data}),  # type: ignore[arg-type]  # a Path
    )
    behind = model_server or _plan(runtime, image, gpus, replicas)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    _run(settings, behind)


def _plan(runtime: str, image: str | None, gpus: str | None, replicas: int) -> Plan:
    from harness.plans import make_plan  # imports docker and cog, which the other commands need not wait for

    plan, why = make_plan(runtime, image, gpus, 0, replicas)
    typer.echo(f"Runtime: {plan.runtime} ({why})", err=True)
    return plan


def _run(settings: Settings, behind: Plan | Sequence[str]) -> None:
    import uvloop  # this and the store's packages, too, take a while

    from harness.replicate.server import serve as run_server

    def say(service: Service) -> None:
        typer.echo(banner(settings, service.served.versions[0]))

    uvloop.run(run_server(settings, behind, say))


def seconds(duration: str) -> float:
    """Return the seconds in `20s`, `5m`, `1h` or `30`; raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", duration)
    if match is None:
        raise UsageError(f"{duration!r} is no duration; write it as 20s, 5m or 1h.")
    return float(match[1]) * _UNITS[match[2]]


def per_minute(rate: str) -> int:
    """Return the 6 of `6/min`; raises UsageError."""
    match = re.fullmatch(r"([1-9]\d*)/min", rate)
    if match is None:
        raise UsageError(f"{rate!r} is no rate; write it as 6/min.")
    return int(match[1])


def banner(settings: Settings, version: str) -> str:
    """Return what a person needs to point each client at the server."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    secure = settings.outputs == "https"
    url = settings.public_url or f"{'https' if secure else 'http'}://{host}:{settings.port}"
    token = "<the --token>" if settings.token else _TOKEN
    return f"""
A local Replicate serves {settings.model} at {url} and keeps its data in {settings.data}.

  Python 1.x   export REPLICATE_BASE_URL={url} REPLICATE_API_TOKEN={token}
  Python 2.x   export REPLICATE_BASE_URL={url}/v1 REPLICATE_API_TOKEN={token}
  JavaScript   new Replicate({{ auth: "{token}", baseUrl: "{url}/v1" }})
  Ruby         Replicate.configure {{ |c| c.api_token = "{token}"; c.api_endpoint_url = "{url}/v1" }}
  curl         curl -H "Authorization: Bearer {token}" {url}/v1/predictions

  Files in outputs: {settings.outputs}. Version: {version}
{_trust(settings) if secure else ""}{"" if settings.loopback or settings.token else _ANYBODY}"""


def _trust(settings: Settings) -> str:
    folder = settings.tls.resolve()
    python, javascript = f"SSL_CERT_FILE={folder / 'bundle.pem'}", f"NODE_EXTRA_CA_CERTS={folder / 'authority.pem'}"
    return f"  Python: export {python}   JavaScript: export {javascript}   curl: --cacert {folder / 'authority.pem'}\n"


@predictions.command("list")
def list_predictions(url: Url = _URL, token: Token = _TOKEN) -> None:
    """Show the newest predictions."""
    table = _table("id", "status", "created", "seconds", "error")
    for one in _call("GET", "/v1/predictions", url, token)["results"]:
        time_s = one["metrics"].get("predict_time")
        table.add_row(one["id"], one["status"], one["created_at"], f"{time_s:.2f}" if time_s else "", one["error"])
    _show(table)


@predictions.command()
def show(prediction: str, url: Url = _URL, token: Token = _TOKEN) -> None:
    """Show one prediction as JSON."""
    _print(_call("GET", f"/v1/predictions/{prediction}", url, token))


@predictions.command()
def cancel(prediction: str, url: Url = _URL, token: Token = _TOKEN) -> None:
    """Cancel a prediction."""
    _print(_call("POST", f"/v1/predictions/{prediction}/cancel", url, token))


@predictions.command()
def retry(prediction: str, url: Url = _URL, token: Token = _TOKEN) -> None:
    """Run the input of a prediction again, as a new one."""
    _print(_call("POST", f"/local/predictions/{prediction}/retry", url, token))


@webhooks.command("list")
def list_webhooks(url: Url = _URL, token: Token = _TOKEN) -> None:
    """Show the newest webhooks and what became of them."""
    table = _table("id", "prediction", "event", "state", "attempts", "last answer")
    for one in _call("GET", "/local/webhooks", url, token)["results"]:
        last = one["deliveries"][-1] if one["deliveries"] else {}
        answer = last.get("diagnosis") or last.get("error") or str(last.get("response_status", ""))
        table.add_row(one["id"], one["prediction_id"], one["event"], one["state"], str(one["attempts"]), answer)
    _show(table)


@webhooks.command()
def redeliver(message: str, url: Url = _URL, token: Token = _TOKEN) -> None:
    """Deliver a webhook again, with its old webhook-id."""
    _print(_call("POST", f"/local/webhooks/{message}/redeliver", url, token))


def _call(method: str, path: str, url: str, token: str) -> JsonValue:
    """Return the server's answer; raises UsageError with its reason when there is none or a refusal."""
    try:
        headers = {"Authorization": f"Bearer {token}"}
        response = httpx.request(method, url + path, headers=headers, timeout=60, trust_env=False)
    except httpx.TransportError as error:
        raise UsageError(f"No local Replicate answers at {url}; start one with `harness serve`.") from error
    if response.is_error:
        raise UsageError(f"The local Replicate refused: {response.json().get('detail')}")
    return response.json()


def _table(*columns: str) -> Table:
    table = Table(box=None)
    for column in columns:
        table.add_column(column, no_wrap=column in {"id", "prediction"})
    return table


def _show(table: Table) -> None:
    Console().print(table)


def _print(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
