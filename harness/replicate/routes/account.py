"""The account, its hardware and its webhook secret."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from harness.replicate import catalogue
from harness.replicate.http import answer, resource, service_of


async def account(request: Request) -> Response:
    """GET /account."""
    return answer(catalogue.account(service_of(request).settings.username))


async def hardware(request: Request) -> Response:
    """GET /hardware: a bare array."""
    return answer([{"name": name, "sku": sku} for name, sku in catalogue.HARDWARE])


async def webhook_secret(request: Request) -> Response:
    """GET /webhooks/default/secret."""
    return answer({"key": service_of(request).webhook_secret})


ROUTES: list[BaseRoute] = [
    resource("/account", get=account),
    resource("/hardware", get=hardware),
    resource("/webhooks/default/secret", get=webhook_secret),
]
