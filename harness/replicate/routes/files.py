"""Uploaded files, and the contents of every file at its capability URL."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import mimetypes
import time
from collections.abc import AsyncGenerator
from hashlib import sha256
from pathlib import PurePath
from typing import IO, Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute

from harness.errors import Problem
from harness.replicate import files, ids, views
from harness.replicate.files import Contents, StoredFile, Writing
from harness.replicate.http import answer, base_url, cursor, resource, service_of
from harness.replicate.service import Service

_FORM_SLACK = 1024 * 1024  # of a multipart body, beyond the file itself
_UPLOAD_S = 24 * 3600.0  # how long the hosted service keeps an upload
_NAME_BYTES = 255
_INERT = {
    # Anybody may have uploaded a web page: it gets no origin, no scripts and no type but its own.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Access-Control-Allow-Origin": "*",
    "Cache-Control": "private, max-age=31536000, immutable",
}


async def create(request: Request) -> Response:
    """POST /files, multipart: the file goes to the disk as it comes in."""
    service = service_of(request)
    form = await _form(request, service.settings.max_upload)
    try:
        content = form.get("content")
        if not isinstance(content, UploadFile):
            raise Problem(400, "The multipart field 'content' with the file is required.", title="Bad request")
        if (content.size or 0) > service.settings.max_upload:
            raise _too_large()
        contents = await asyncio.to_thread(_keep, service, content.file)
        file = await _described(form, content, contents, service)
        await service.database.write(lambda c: files.insert_all(c, [file]))
    finally:
        await form.close()
    return answer(_view(file, base_url(request)), 201)


async def _form(request: Request, limit: int) -> FormData:
    """Parse a multipart body of at most `limit` bytes of file."""
    if int(request.headers.get("content-length", 0)) > limit + _FORM_SLACK:
        raise _too_large()
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(400, "Files are uploaded as multipart/form-data.", title="Bad request")
    try:
        return await MultiPartParser(request.headers, _bounded(request, limit + _FORM_SLACK)).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Problem(400, f"The multipart body is malformed: {error}", title="Bad request") from error


async def _bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > limit:
            raise _too_large()
        yield chunk


def _too_large() -> Problem:
    return Problem(413, "Files must be less than 100MB in size")


def _keep(service: Service, source: IO[bytes]) -> Contents:
    with service.blobs.writing() as writing:
        _copy(source, writing)
        return writing.keep()


def _copy(source: IO[bytes], into: Writing) -> None:
    source.seek(0)
    while chunk := source.read(1024 * 1024):
        into.write(chunk)


async def _described(form: FormData, content: UploadFile, contents: Contents, service: Service) -> StoredFile:
    """Return the row of an upload, from what the client said of it and what its first bytes say."""
    name = PurePath(await _text(form.get("filename")) or content.filename or "file").name
    if len(name.encode()) > _NAME_BYTES:
        raise Problem(422, f"filename must be at most {_NAME_BYTES} bytes long.", title="Invalid filename")
    told = (await _text(form.get("type")) or content.content_type or "").partition(";")[0].strip()
    if told in {"", "application/octet-stream"}:  # clients that lose the type may keep the suffix
        told = mimetypes.guess_type(name)[0] or "application/octet-stream"
    seen = files.named(contents, kind="upload", stem="", content_type=told)
    hosted_keeps = service.settings.rehearsals.retention_s is not None
    return StoredFile(
        id=ids.new_id(),
        kind="upload",
        name=name,
        content_type=seen.content_type,
        size=contents.size,
        sha256=contents.sha256,
        md5=contents.md5,
        metadata=await _metadata(form),
        created_at=ids.now(),
        expires_at=ids.later(_UPLOAD_S if hosted_keeps else files.NEVER_S),
    )


async def _text(part: UploadFile | str | None) -> str:
    if isinstance(part, UploadFile):
        return (await part.read(_FORM_SLACK)).decode(errors="replace")
    return part or ""


async def _metadata(form: FormData) -> dict[str, Any]:
    """Return the metadata, sent as one JSON part or as fields like `metadata[name]`."""
    single = {key[9:-1]: value for key, value in form.items() if key.startswith("metadata[") and key.endswith("]")}
    text = await _text(form.get("metadata"))
    try:
        value = json.loads(text) if text.strip() else single
    except ValueError as error:
        raise Problem(422, "metadata must be a JSON object.", title="Invalid metadata") from error
    if not isinstance(value, dict):
        raise Problem(422, "metadata must be a JSON object.", title="Invalid metadata")
    return value


def _view(file: StoredFile, base: str) -> views.Json:
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size,
        "etag": file.md5,
        "checksums": {"sha256": file.sha256, "md5": file.md5},
        "metadata": file.metadata or {},
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "urls": {"get": f"{base}/v1/files/{file.id}"},
    }


async def list_all(request: Request) -> Response:
    """GET /files: uploads, newest first."""
    service, position = service_of(request), cursor(request)
    before = tuple(position.split(" ", 1)) if position else None
    size = service.settings.page
    rows = await service.database.read(lambda c: files.uploads(c, size + 1, before))  # type: ignore[arg-type]  # two parts
    last = rows[size - 1] if len(rows) > size else None
    base = base_url(request)
    following = f"{base}/v1/files?cursor={ids.encode_cursor(f'{last.created_at} {last.id}')}" if last else None
    return answer(views.page([_view(row, base) for row in rows[:size]], None, following))


async def get(request: Request) -> Response:
    """GET /files/{id}: what is known of an upload."""
    return answer(_view(await _upload(request), base_url(request)))


async def remove(request: Request) -> Response:
    """DELETE /files/{id}."""
    service, file = service_of(request), await _upload(request)
    for unneeded in await service.database.write(lambda c: files.remove(c, [file.id])):
        await asyncio.to_thread(service.blobs.path(unneeded).unlink, missing_ok=True)
    return Response(status_code=204)


async def _upload(request: Request) -> StoredFile:
    file = await service_of(request).database.read(lambda c: files.get(c, request.path_params["id"], "upload"))
    if file is None:
        raise _no_file()
    return file


def _no_file() -> Problem:
    return Problem(404, "File not found")


async def download(request: Request) -> Response:
    """GET /files/{id}/download: contents of an upload to whoever has a signature for it."""
    service, query = service_of(request), request.query_params
    file = await _upload(request)
    signed = f"{query.get('owner', '')} {file.id} {query.get('expiry', '')}"
    expected = base64.b64encode(hmac.new(service.key, signed.encode(), sha256).digest())
    expiry = query.get("expiry", "")
    valid = hmac.compare_digest(expected, query.get("signature", "").encode())
    if not valid or not expiry.isdecimal() or int(expiry) < time.time():
        raise _no_file()
    return _contents(service, file)


async def deliver(request: Request) -> Response:
    """GET /delivery/{id}/{name}: contents of a file to whoever knows its id."""
    service = service_of(request)
    file = await service.database.read(lambda c: files.get(c, request.path_params["id"]))
    if file is None or file.kind == "upload" or file.name != request.path_params["name"]:
        raise _no_file()
    return _contents(service, file)


def _contents(service: Service, file: StoredFile) -> Response:
    """Return a file's contents; ranges and conditions are Starlette's."""
    path = service.blobs.path(file.sha256)
    return FileResponse(path, media_type=file.content_type, headers=_INERT)


ROUTES: list[BaseRoute] = [
    resource("/files", get=list_all, post=create),
    resource("/files/{id}", get=get, delete=remove),
    resource("/files/{id}/download", get=download),
    resource("/delivery/{id}/{name}", get=deliver),
]
