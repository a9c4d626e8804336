# mypy: ignore-errors
# (its client is installed in another environment than the one where types are checked)
"""Every call of Replicate's Python client 1.x, synchronous."""

from __future__ import annotations

import io
import urllib.request

import replicate
from replicate.exceptions import ModelError, ReplicateError
from support import MODEL, PHOTO, SUFFIX, VERSION, make_all, raises, size_of_png, webhooks


def photo() -> dict[str, object]:
    return {"img": io.BytesIO(PHOTO.read_bytes()), "version": "v1.4", "scale": 2}


def run_with_a_version_and_a_file():
    with PHOTO.open("rb") as img:
        output = replicate.run(f"{MODEL}:{VERSION}", input={"img": img, "version": "v1.4", "scale": 2})
    assert size_of_png(output.read()) == (16, 12)
    assert b"".join(output) == output.read()


def run_with_the_models_name():
    assert size_of_png(replicate.run(MODEL, input={**photo(), "scale": 3}).read()) == (24, 18)


def run_with_a_wait_that_is_too_short_polls():
    output = replicate.run(f"{MODEL}:{VERSION}", input={**photo(), "seconds": 1.5}, wait=1)
    assert size_of_png(output.read()) == (16, 12)


def run_without_waiting_gives_a_url():
    output = replicate.run(f"{MODEL}:{VERSION}", input=photo(), wait=False)
    with urllib.request.urlopen(output) as picture:  # it needs no token
        assert size_of_png(picture.read()) == (16, 12)


def run_with_a_data_url():
    output = replicate.run(f"{MODEL}:{VERSION}", input=photo(), file_encoding_strategy="base64")
    assert size_of_png(output.read()) == (16, 12)


def run_without_file_output():
    assert isinstance(replicate.run(f"{MODEL}:{VERSION}", input=photo(), use_file_output=False), str)


def a_failing_model_raises_model_error():
    with raises(ModelError) as failed:
        replicate.run(f"{MODEL}:{VERSION}", input={"img": io.BytesIO(b"not a photo")})
    assert "cannot identify" in failed.value.prediction.error


def problems_carry_status_and_detail():
    for version, input, status in (("0" * 64, photo(), 422), (VERSION, {"scale": 2}, 422), (VERSION, {}, 422)):
        with raises(ReplicateError) as refused:
            replicate.predictions.create(version=version, input=input)
        assert refused.value.status == status
        assert refused.value.detail
    with raises(ReplicateError) as unknown:
        replicate.models.get("no-such", "model")
    assert unknown.value.status == 404


def a_prediction_with_a_webhook():
    secret = replicate.webhooks.default.secret()
    with webhooks() as (url, arrived):
        made = replicate.predictions.create(
            version=VERSION, input=photo(), webhook=url, webhook_events_filter=["completed"]
        )
        assert made.status == "starting"
        headers, body = arrived.get(timeout=20)
    replicate.webhooks.validate(headers=headers, body=body.decode(), secret=secret, tolerance=60)
    made.reload()
    assert made.status == "succeeded"
    assert made.output.startswith("http://")
    assert made.id in body.decode()


def a_prediction_is_streamed():
    made = replicate.predictions.create(version=VERSION, input=photo(), stream=True)
    events = [event.event.value for event in made.stream()]
    assert events[-1] == "done"
    assert "output" in events


def stream_ends():
    assert list(replicate.stream(f"{MODEL}:{VERSION}", input=photo()))


def a_running_prediction_is_canceled():
    made = replicate.predictions.create(version=VERSION, input={**photo(), "seconds": 20})
    while not made.logs:
        made.reload()
    made.cancel()
    made.wait()
    assert made.status == "canceled"
    assert replicate.predictions.cancel(made.id).status == "canceled"


def predictions_are_listed_page_by_page():
    made = replicate.predictions.create(model=MODEL, input=photo())
    made.wait()
    page = replicate.predictions.list()
    assert made.id in [prediction.id for prediction in page.results]
    while page.next:
        page = replicate.predictions.list(page.next)
    assert replicate.predictions.get(made.id).status == "succeeded"


def progress_and_logs():
    made = replicate.predictions.create(version=VERSION, input={**photo(), "seconds": 0.2})
    made.wait()
    assert "step 1/4" in made.logs
    assert made.metrics["predict_time"] > 0


def models():
    name = f"py1-{SUFFIX}"
    model = replicate.models.create("local", name, visibility="private", hardware="gpu-t4", description="x")
    assert (model.owner, model.name, model.visibility) == ("local", name, "private")
    assert replicate.models.get(f"local/{name}").description == "x"
    assert name in [found.name for found in replicate.models.list().results]
    assert "gfpgan" in [found.name for found in replicate.models.search("gfpgan").results]
    assert replicate.models.search("no such model üñï").results == []
    assert replicate.models.delete(f"local/{name}") is True


def versions():
    model = replicate.models.get(MODEL)
    version = model.versions.get(VERSION)
    assert "img" in version.openapi_schema["components"]["schemas"]["Input"]["properties"]
    assert model.latest_version.id in [found.id for found in model.versions.list().results]
    made = replicate.models.predictions.create(model=MODEL, input=photo())
    made.wait()
    assert made.status == "succeeded"


def deployments():
    name = f"py1-{SUFFIX}"
    deployment = replicate.deployments.create(
        name=name, model=MODEL, version=VERSION, hardware="gpu-t4", min_instances=0, max_instances=1
    )
    assert deployment.current_release.number == 1
    release = replicate.deployments.update("local", name, min_instances=1).current_release
    assert (release.number, release.configuration.min_instances) == (2, 1)
    assert name in [found.name for found in replicate.deployments.list().results]
    made = replicate.deployments.get(f"local/{name}").predictions.create(input=photo(), wait=5)
    made.wait()
    assert made.status == "succeeded"


def trainings():
    replicate.models.create("local", f"py1-trained-{SUFFIX}", visibility="private", hardware="cpu")
    training = replicate.trainings.create(
        version=f"{MODEL}:{VERSION}", input={"x": 1}, destination=f"local/py1-trained-{SUFFIX}"
    )
    assert replicate.trainings.get(training.id).id == training.id
    assert training.id in [found.id for found in replicate.trainings.list().results]
    training.reload()
    training.cancel()
    assert training.status in ("failed", "canceled")


def files():
    uploaded = replicate.files.create(PHOTO, metadata={"a": "1"})
    assert (uploaded.content_type, uploaded.size) == ("image/png", PHOTO.stat().st_size)
    assert replicate.files.get(uploaded.id).checksums == uploaded.checksums
    assert uploaded.id in [found.id for found in replicate.files.list()]
    assert size_of_png(replicate.run(MODEL, input={"img": uploaded.urls["get"]}).read()) == (16, 12)
    assert replicate.files.delete(uploaded.id) is True


def account_hardware_and_collections():
    assert replicate.default_client.accounts.current().username == "local"
    assert "gpu-t4" in [hardware.sku for hardware in replicate.hardware.list()]
    for collection in replicate.collections.list().results:
        assert replicate.collections.get(collection.slug).name == collection.name


make_all(
    [
        run_with_a_version_and_a_file,
        run_with_the_models_name,
        run_with_a_wait_that_is_too_short_polls,
        run_without_waiting_gives_a_url,
        run_with_a_data_url,
        run_without_file_output,
        a_failing_model_raises_model_error,
        problems_carry_status_and_detail,
        a_prediction_with_a_webhook,
        a_prediction_is_streamed,
        stream_ends,
        a_running_prediction_is_canceled,
        predictions_are_listed_page_by_page,
        progress_and_logs,
        models,
        versions,
        deployments,
        trainings,
        files,
        account_hardware_and_collections,
    ]
)
