# mypy: ignore-errors
# (its client is installed in another environment than the one where types are checked)
"""Every call of Replicate's Python client 1.x, asynchronous."""

from __future__ import annotations

import io

import replicate
from support import MODEL, PHOTO, SUFFIX, VERSION, make_all, size_of_png, webhooks

Client = replicate.Client


def photo() -> dict[str, object]:
    return {"img": io.BytesIO(PHOTO.read_bytes()), "version": "v1.4", "scale": 2}


async def run():
    for reference in (f"{MODEL}:{VERSION}", MODEL):
        output = await Client().async_run(reference, input=photo())
        assert size_of_png(await output.aread()) == (16, 12)
        assert b"".join([chunk async for chunk in output]) == await output.aread()


async def a_prediction_with_a_webhook():
    client = Client()
    secret = await client.webhooks.default.async_secret()
    with webhooks() as (url, arrived):
        made = await client.predictions.async_create(version=VERSION, input=photo(), webhook=url)
        await made.async_wait()
        headers, body = arrived.get(timeout=20)
    client.webhooks.validate(headers=headers, body=body.decode(), secret=secret, tolerance=60)
    assert (await client.predictions.async_get(made.id)).status == "succeeded"


async def a_prediction_is_streamed():
    made = await Client().predictions.async_create(version=VERSION, input=photo(), stream=True)
    events = [event.event.value async for event in made.async_stream()]
    assert events[-1] == "done"
    assert "output" in events


async def a_running_prediction_is_canceled():
    made = await Client().predictions.async_create(version=VERSION, input={**photo(), "seconds": 20})
    while not made.logs:
        await made.async_reload()
    await made.async_cancel()
    await made.async_reload()
    await made.async_wait()
    assert made.status == "canceled"


async def lists():
    client = Client()
    page = await client.predictions.async_list()
    while page.next:
        page = await client.predictions.async_list(page.next)
    assert (await client.models.async_search("gfpgan")).results
    assert (await client.models.async_list()).results
    assert "gpu-t4" in [hardware.sku for hardware in await client.hardware.async_list()]
    assert (await client.accounts.async_current()).username == "local"
    for collection in (await client.collections.async_list()).results:
        assert (await client.collections.async_get(collection.slug)).name == collection.name


async def models_and_versions():
    client, name = Client(), f"py1-async-{SUFFIX}"
    model = await client.models.async_create("local", name, visibility="private", hardware="cpu")
    assert (await client.models.async_get("local", model.name)).owner == "local"
    assert await client.models.async_delete("local", name) is True
    gfpgan = await client.models.async_get(MODEL)
    assert (await gfpgan.versions.async_get(VERSION)).id == VERSION
    assert (await gfpgan.versions.async_list()).results
    made = await client.models.predictions.async_create(model=MODEL, input=photo())
    await made.async_wait()
    assert made.status == "succeeded"


async def deployments():
    client, name = Client(), f"py1-async-{SUFFIX}"
    await client.deployments.async_create(
        name=name, model=MODEL, version=VERSION, hardware="cpu", min_instances=0, max_instances=1
    )
    updated = await client.deployments.async_update("local", name, max_instances=2)
    assert updated.current_release.number == 2
    assert name in [found.name for found in (await client.deployments.async_list()).results]
    deployment = await client.deployments.async_get(f"local/{name}")
    made = await deployment.predictions.async_create(input=photo())
    await made.async_wait()
    assert made.status == "succeeded"


async def trainings():
    client = Client()
    await client.models.async_create("local", f"py1-async-trained-{SUFFIX}", visibility="private", hardware="cpu")
    training = await client.trainings.async_create(
        model=MODEL, version=VERSION, input={"x": 1}, destination=f"local/py1-async-trained-{SUFFIX}"
    )
    assert (await client.trainings.async_get(training.id)).id == training.id
    assert (await client.trainings.async_list()).results
    assert (await client.trainings.async_cancel(training.id)).id == training.id


async def files():
    client = Client()
    uploaded = await client.files.async_create(PHOTO)
    assert (await client.files.async_get(uploaded.id)).size == PHOTO.stat().st_size
    assert uploaded.id in [found.id for found in await client.files.async_list()]
    assert await client.files.async_delete(uploaded.id) is True


make_all(
    [
        run,
        a_prediction_with_a_webhook,
        a_prediction_is_streamed,
        a_running_prediction_is_canceled,
        lists,
        models_and_versions,
        deployments,
        trainings,
        files,
    ]
)
