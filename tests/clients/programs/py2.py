# mypy: ignore-errors
# (its client is installed in another environment than the one where types are checked)
# ruff: noqa: ANN001, ANN202 - written as its callers write
"""Every call of Replicate's Python client 2.x, by both of its clients: `python py2.py sync`, `python py2.py async`.

The two have the same methods; those of the asynchronous one are awaited.
"""

from __future__ import annotations

import base64
import functools
import inspect
import io
import json
import sys
import warnings
from pathlib import Path

import replicate
from replicate import APIStatusError, AsyncReplicate, Replicate
from replicate.exceptions import ModelError
from support import MODEL, PHOTO, SUFFIX, VERSION, make_all, raises, size_of_png, webhooks

ASYNC = sys.argv[1] == "async"
NAME = f"py2-{sys.argv[1]}-{SUFFIX}"


def photo() -> dict[str, object]:
    return {"img": io.BytesIO(PHOTO.read_bytes()), "version": "v1.4", "scale": 2}


def encoded() -> dict[str, object]:
    """For methods that, in this client, do not upload files."""
    return {"img": "data:image/png;base64," + base64.b64encode(PHOTO.read_bytes()).decode()}


async def got(value):
    return await value if inspect.isawaitable(value) else value


async def ended(client, prediction):
    return await got(client.predictions.wait(prediction.id))


async def content(output):
    return await got(output.read())


async def run_gives_a_file_that_can_be_read(client):
    for reference in (f"{MODEL}:{VERSION}", MODEL):
        output = await got(client.run(reference, input=photo()))
        assert size_of_png(await content(output)) == (16, 12)


async def run_with_a_wait_that_is_too_short_polls(client):
    output = await got(client.run(f"{MODEL}:{VERSION}", input={**photo(), "seconds": 1.5}, wait=1))
    assert size_of_png(await content(output)) == (16, 12)


async def run_with_a_data_url(client):
    output = await got(client.run(f"{MODEL}:{VERSION}", input=photo(), file_encoding_strategy="base64"))
    assert size_of_png(await content(output)) == (16, 12)


async def a_failing_model_raises_model_error(client):
    with raises(ModelError) as failed:
        await got(client.run(f"{MODEL}:{VERSION}", input={"img": io.BytesIO(b"not a photo")}))
    assert "cannot identify" in failed.value.prediction.error


async def problems_carry_the_status(client):
    with raises(APIStatusError) as refused:
        await got(client.predictions.create(version="0" * 64, input=photo()))
    assert refused.value.status_code == 422
    assert refused.value.body["title"] == "Invalid version or not permitted"


async def predictions(client):
    made = await got(client.predictions.create(version=VERSION, input=photo(), prefer="wait=5", cancel_after="5m"))
    assert made.status == "succeeded"
    assert made.deadline
    again = await got(client.predictions.get(prediction_id=made.id))
    assert again.output == made.output
    page = await got(client.predictions.list(created_after=made.created_at))
    assert made.id in [found.id for found in page.results]
    while page.has_next_page():
        page = await got(page.get_next_page())


async def a_prediction_with_a_webhook(client):
    with webhooks() as (url, arrived):
        made = await got(client.predictions.create(version=VERSION, input=photo(), webhook=url))
        await ended(client, made)
        _, body = arrived.get(timeout=20)
    assert json.loads(body)["id"] == made.id
    assert (await got(client.webhooks.default.secret.get())).key.startswith("whsec_")


async def a_running_prediction_is_canceled(client):
    made = await got(client.predictions.create(version=VERSION, input={**photo(), "seconds": 20}))
    while not made.logs:
        made = await got(client.predictions.get(prediction_id=made.id))
    await got(client.predictions.cancel(prediction_id=made.id))
    assert (await ended(client, made)).status == "canceled"


async def models(client):
    created = await got(client.models.create(owner="local", name=NAME, visibility="private", hardware="gpu-t4"))
    key = {"model_owner": "local", "model_name": created.name}
    updated = await got(client.models.update(**key, description="x", readme="# Hello"))
    assert updated.description == "x"
    assert await got(client.models.readme.get(**key)) == "# Hello"
    assert (await got(client.models.get(**key))).name == NAME
    assert NAME in [found.name for found in (await got(client.models.list(sort_by="model_created_at"))).results]
    assert "gfpgan" in [found.name for found in (await got(client.models.search(body="gfpgan"))).results]
    assert (await got(client.models.examples.list(**key))).results == []
    await got(client.models.delete(**key))


async def versions(client):
    key = {"model_owner": "tencentarc", "model_name": "gfpgan"}
    assert (await got(client.models.versions.get(**key, version_id=VERSION))).id == VERSION
    assert (await got(client.models.versions.list(**key))).results
    made = await got(client.models.predictions.create(**key, input=photo(), prefer="wait"))
    assert made.status == "succeeded"


async def deployments(client):
    key = {"deployment_owner": "local", "deployment_name": NAME}
    await got(
        client.deployments.create(
            name=NAME, model=MODEL, version=VERSION, hardware="gpu-t4", min_instances=0, max_instances=1
        )
    )
    assert (await got(client.deployments.update(**key, max_instances=2))).current_release.number == 2
    assert NAME in [found.name for found in (await got(client.deployments.list())).results]
    made = await got(client.deployments.predictions.create(**key, input=encoded(), prefer="wait=5"))
    assert made.status == "succeeded"
    assert (await got(client.deployments.get(**key))).owner == "local"


async def trainings(client):
    await got(client.models.create(owner="local", name=f"{NAME}-trained", visibility="private", hardware="cpu"))
    training = await got(
        client.trainings.create(
            model_owner="tencentarc",
            model_name="gfpgan",
            version_id=VERSION,
            destination=f"local/{NAME}-trained",
            input={"x": 1},
        )
    )
    assert (await got(client.trainings.get(training_id=training.id))).id == training.id
    assert training.id in [found.id for found in (await got(client.trainings.list())).results]
    assert (await got(client.trainings.cancel(training_id=training.id))).id == training.id


async def files(client):
    uploaded = await got(client.files.create(content=PHOTO.read_bytes(), metadata={"a": 1}))
    assert uploaded.size == PHOTO.stat().st_size
    assert (await got(client.files.get(file_id=uploaded.id))).checksums.sha256 == uploaded.checksums.sha256
    assert uploaded.id in [found.id for found in (await got(client.files.list())).results]
    await got(client.files.delete(file_id=uploaded.id))


async def the_rest(client):
    assert (await got(client.account.get())).username == "local"
    assert "gpu-t4" in [hardware.sku for hardware in await got(client.hardware.list())]
    assert (await got(client.search(query="gfpgan"))).models
    for collection in (await got(client.collections.list())).results:
        assert (await got(client.collections.get(collection_slug=collection.slug))).name == collection.name


def use_downloads_the_output():
    output = replicate.use(f"{MODEL}:{VERSION}")(img=PHOTO, scale=2)
    assert size_of_png(Path(output).read_bytes()) == (16, 12)


def stream_gives_the_output():
    with warnings.catch_warnings(action="ignore"):
        assert list(replicate.stream(f"{MODEL}:{VERSION}", input={"img": PHOTO, "scale": 2}))


def with_client(call):
    @functools.wraps(call)
    async def wrapped():
        if ASYNC:
            async with AsyncReplicate() as client:
                await call(client)
        else:
            with Replicate() as client:
                await call(client)

    return wrapped


make_all(
    [
        *map(
            with_client,
            [
                run_gives_a_file_that_can_be_read,
                run_with_a_wait_that_is_too_short_polls,
                run_with_a_data_url,
                a_failing_model_raises_model_error,
                problems_carry_the_status,
                predictions,
                a_prediction_with_a_webhook,
                a_running_prediction_is_canceled,
                models,
                versions,
                deployments,
                trainings,
                files,
                the_rest,
            ],
        ),
        *([] if ASYNC else [use_downloads_the_output, stream_gives_the_output]),
    ]
)
