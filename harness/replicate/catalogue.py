"""Models, versions and deployments: the one model that is served here, and what clients have created."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects import sqlite

from harness.errors import Problem
from harness.replicate import ids
from harness.replicate.tables import deployments, models, versions
from harness.replicate.validation import InputSchema
from harness.replicate.views import Json

HARDWARE: Final = (
    ("CPU", "cpu"),
    ("Nvidia T4 GPU", "gpu-t4"),
    ("Nvidia L40S GPU", "gpu-l40s"),
    ("2x Nvidia L40S GPU", "gpu-l40s-2x"),
    ("Nvidia A100 (80GB) GPU", "gpu-a100-large"),
    ("2x Nvidia A100 (80GB) GPU", "gpu-a100-large-2x"),
    ("Nvidia H100 GPU", "gpu-h100"),
)  # names and SKUs as the hosted service lists them

_REFERENCE = re.compile(r"(?:(?P<model>[\w.-]+/[\w.-]+)(?::(?P<of>[0-9a-f]{64}))?|(?P<bare>[0-9a-f]{64}))", re.ASCII)
_UNUSED_S = 15 * 60.0
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Served:
    """The model behind the model servers. `versions` are the ids it answers to, its own first."""

    model: str
    versions: tuple[str, ...]
    document: dict[str, Any]
    inputs: InputSchema
    streams_files: bool  # its output is files, so that streams of it are too

    @classmethod
    def of(cls, model: str, aliases: tuple[str, ...], document: dict[str, Any]) -> Served:
        """Describe the model whose OpenAPI document this is; its version id is the document's hash."""
        own = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        output = document["components"]["schemas"].get("Output", {})
        files = "uri" in (output.get("format"), output.get("items", {}).get("format"))
        return cls(model, (own, *aliases), document, InputSchema(document), files)


@dataclass(frozen=True, slots=True)
class Target:
    """What a creating request asks to run, and what the hosted service would hold against it."""

    model: str
    version: str
    deployment: str | None = None
    warnings: tuple[str, ...] = ()


def register(connection: Connection, served: Served, cog_version: str) -> None:
    """Make the served model and its versions known to the store."""
    owner, name = served.model.split("/")
    moment = ids.now()
    description = "Served by this local Replicate."
    model = {"owner": owner, "name": name, "visibility": "public", "hardware": "cpu", "created_at": moment}
    connection.execute(sqlite.insert(models).values(**model, description=description).on_conflict_do_nothing())
    for version in reversed(served.versions):
        row = {"id": version, "model": served.model, "created_at": moment}
        change = sqlite.insert(versions).values(**row, cog_version=cog_version, openapi_schema=served.document)
        connection.execute(change.on_conflict_do_update(["id"], set_={"openapi_schema": served.document}))
        moment = ids.later(0.001, moment)  # its own is the newest


class Resolver:
    """Finds what a reference of a client means here."""

    def __init__(self, served: Served, *, strict: bool) -> None:
        self._served = served
        self._strict = strict

    @property
    def hint(self) -> str:
        """What would work."""
        return f"This local Replicate runs {self._served.model}, version {self._served.versions[0]} (or its aliases)."

    def version(self, reference: str) -> Target:
        """Resolve `owner/name`, `owner/name:version` or a bare version; raises Problem 422."""
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise self._no_version()
        if match["model"] and not match["of"]:
            return self.short_form(match["model"], self._no_version())
        wanted = match["of"] or match["bare"]
        if wanted not in self._served.versions or match["model"] not in (None, self._served.model):
            raise self._no_version()
        return Target(self._served.model, wanted)

    def short_form(self, model: str, unknown: Problem) -> Target:
        """Resolve a model without a version, which the hosted service takes for official models only."""
        if model != self._served.model:
            raise unknown
        warning = f"hosted, {model} without a version is refused unless it is an official model; name the version"
        if self._strict:
            raise self._no_version(f"--strict: {warning}.")
        return Target(model, self._served.versions[0], warnings=(warning,))

    def deployment(self, row: Row[Any]) -> Target:
        """Resolve a deployment; raises Problem 422 when its version is not the one served."""
        if row.version not in self._served.versions:
            raise self._no_version()
        return Target(row.model, row.version, f"{row.owner}/{row.name}")

    def _no_version(self, hint: str | None = None) -> Problem:
        return Problem(
            422,
            "The specified version does not exist (or perhaps you don't have permission to use it?)",
            title="Invalid version or not permitted",
            hint=hint or self.hint,
        )


def not_found(hint: str | None = None) -> Problem:
    """Return the known 404, with a hint if there is one."""
    error = Problem(404, "The requested resource could not be found.", title="Not found")
    if hint:
        error.body["hint"] = hint
    return error


def model_row(connection: Connection, owner: str, name: str) -> Row[Any]:
    """Return a model; raises Problem 404."""
    row = connection.execute(select(models).where(models.c.owner == owner, models.c.name == name)).first()
    if row is None:
        known = connection.execute(select(models.c.owner + "/" + models.c.name)).scalars().all()
        raise not_found(f"Models here: {', '.join(known)}.")
    return row


def latest_version(connection: Connection, model: str) -> Row[Any] | None:
    """Return a model's newest version, or None."""
    query = select(versions).where(versions.c.model == model).order_by(versions.c.created_at.desc()).limit(1)
    return connection.execute(query).first()


def version_row(connection: Connection, model: str, version: str) -> Row[Any]:
    """Return a version of a model; raises Problem 404."""
    row = connection.execute(select(versions).where(versions.c.model == model, versions.c.id == version)).first()
    if row is None:
        known = connection.execute(select(versions.c.id).where(versions.c.model == model)).scalars().all()
        raise not_found(f"Versions of {model} here: {', '.join(known) or 'none'}.")
    return row


def deployment_row(connection: Connection, owner: str, name: str) -> Row[Any]:
    """Return a deployment; raises Problem 404."""
    mine = (deployments.c.owner == owner, deployments.c.name == name)
    row = connection.execute(select(deployments).where(*mine)).first()
    if row is None:
        known = connection.execute(select(deployments.c.owner + "/" + deployments.c.name)).scalars().all()
        raise not_found(f"Deployments here: {', '.join(known) or 'none'}.")
    return row


def model_view(connection: Connection, row: Row[Any], base_url: str) -> Json:
    """Return a model as Replicate shows it."""
    full_name = f"{row.owner}/{row.name}"
    newest = latest_version(connection, full_name)
    return {
        "url": f"{base_url}/v1/models/{full_name}",
        "owner": row.owner,
        "name": row.name,
        "description": row.description,
        "visibility": row.visibility,
        "is_official": False,
        "github_url": row.github_url,
        "paper_url": row.paper_url,
        "license_url": row.license_url,
        "run_count": row.run_count,
        "cover_image_url": row.cover_image_url,
        "default_example": None,
        "latest_version": None if newest is None else version_view(newest),
        "created_at": row.created_at,
    }


def version_view(row: Row[Any]) -> Json:
    """Return a version as Replicate shows it."""
    return {
        "id": row.id,
        "created_at": row.created_at,
        "cog_version": row.cog_version,
        "openapi_schema": row.openapi_schema,
    }


def account(username: str) -> Json:
    """Return the one account there is."""
    return {"type": "user", "username": username, "name": username.capitalize()}


def deployment_view(row: Row[Any], username: str) -> Json:
    """Return a deployment as Replicate shows it."""
    return {
        "owner": row.owner,
        "name": row.name,
        "current_release": {
            "number": row.number,
            "model": row.model,
            "version": row.version,
            "created_at": row.released_at,
            "created_by": account(username),
            "configuration": {
                "hardware": row.hardware,
                "min_instances": row.min_instances,
                "max_instances": row.max_instances,
            },
        },
    }


def create_model(connection: Connection, values: Mapping[str, Any]) -> Row[Any]:
    """Add a model; raises Problem 409 when its name is taken."""
    owner, name = values["owner"], values["name"]
    if not (_NAME.fullmatch(owner) and _NAME.fullmatch(name)):
        raise Problem(422, "owner and name take lower-case letters, digits, '-', '_' and '.'.", title="Invalid name")
    if connection.execute(select(models.c.name).where(models.c.owner == owner, models.c.name == name)).first():
        raise Problem(409, f"A model with the name {owner}/{name} already exists.", title="Conflict")
    connection.execute(insert(models).values(**values, created_at=ids.now()))
    return model_row(connection, owner, name)


def update_model(connection: Connection, owner: str, name: str, values: Mapping[str, Any]) -> Row[Any]:
    """Change what may change of a model; raises Problem 404."""
    model_row(connection, owner, name)
    if values:
        connection.execute(update(models).where(models.c.owner == owner, models.c.name == name).values(**values))
    return model_row(connection, owner, name)


def delete_model(connection: Connection, owner: str, name: str) -> None:
    """Remove a private model without versions; raises Problem 404 or 422."""
    row = model_row(connection, owner, name)
    if row.visibility != "private" or latest_version(connection, f"{owner}/{name}") is not None:
        raise Problem(422, "Only private models without versions can be deleted.", title="Not permitted")
    connection.execute(delete(models).where(models.c.owner == owner, models.c.name == name))


def delete_version(connection: Connection, owner: str, name: str, version: str, served: Served) -> None:
    """Remove a version of a private model that nothing uses; raises Problem 404 or 422."""
    model = f"{owner}/{name}"
    version_row(connection, model, version)
    used = connection.execute(select(deployments.c.name).where(deployments.c.version == version)).first()
    if version in served.versions or used or model_row(connection, owner, name).visibility != "private":
        detail = (
            "Only versions of private models that no deployment uses, and that are not served here, can be deleted."
        )
        raise Problem(422, detail, title="Not permitted")
    connection.execute(delete(versions).where(versions.c.id == version))


def create_deployment(connection: Connection, owner: str, values: Mapping[str, Any]) -> Row[Any]:
    """Add a deployment of an existing version; raises Problem 404, 409 or 422."""
    name = values["name"]
    if not _NAME.fullmatch(name):
        raise Problem(422, "name takes lower-case letters, digits, '-', '_' and '.'.", title="Invalid name")
    version_row(connection, values["model"], values["version"])
    if connection.execute(
        select(deployments.c.name).where(deployments.c.owner == owner, deployments.c.name == name)
    ).first():
        raise Problem(409, f"A deployment with the name {owner}/{name} already exists.", title="Conflict")
    moment = ids.now()
    row = {**values, "owner": owner, "number": 1, "created_at": moment, "released_at": moment}
    connection.execute(insert(deployments).values(row))
    return deployment_row(connection, owner, name)


def update_deployment(connection: Connection, owner: str, name: str, values: Mapping[str, Any]) -> Row[Any]:
    """Make a new release of a deployment; raises Problem 404."""
    row = deployment_row(connection, owner, name)
    if "version" in values:
        version_row(connection, row.model, values["version"])
    release = {**values, "number": row.number + 1, "released_at": ids.now()}
    mine = (deployments.c.owner == owner, deployments.c.name == name)
    connection.execute(update(deployments).where(*mine).values(**release))
    return deployment_row(connection, owner, name)


def use_deployment(connection: Connection, owner: str, name: str) -> Row[Any]:
    """Return a deployment and note that it is used now; raises Problem 404."""
    row = deployment_row(connection, owner, name)
    mine = (deployments.c.owner == owner, deployments.c.name == name)
    connection.execute(update(deployments).where(*mine).values(used_at=ids.now()))
    return row


def delete_deployment(connection: Connection, owner: str, name: str, *, strict: bool) -> None:
    """Remove a deployment; with `strict` only one that is offline and was not used lately. Raises Problem 404, 422."""
    row = deployment_row(connection, owner, name)
    recently = row.used_at is not None and row.used_at > ids.later(-_UNUSED_S)
    if strict and (recently or row.max_instances > 0):
        detail = "Only a deployment that is offline (0 instances) and was unused for 15 minutes can be deleted."
        raise Problem(422, detail, title="Not permitted")
    connection.execute(delete(deployments).where(deployments.c.owner == owner, deployments.c.name == name))
