"""A FastAPI service over Replicate: the answer is an id at once, the result comes by webhook.

PUBLIC_URL=http://localhost:9000 uvicorn web_service:app --port 9000
curl --data-binary @photo.jpg http://localhost:9000/photos
"""

import io
import os
import time
from contextlib import asynccontextmanager

import replicate
from fastapi import FastAPI, HTTPException, Request
from replicate.webhook import WebhookValidationError

VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"
PUBLIC_URL = os.environ.get("PUBLIC_URL", "http://localhost:9000")
STALE_AFTER_S = float(os.environ.get("STALE_AFTER_S", "300"))

jobs = {}  # prediction id -> what is known about it; a real service has a database table
delivered = set()  # webhook ids: a webhook may arrive more than once
secret = None


@asynccontextmanager
async def lifespan(app):
    global secret
    secret = await replicate.webhooks.default.async_secret()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/photos", status_code=202)
async def restore(request: Request):
    prediction = await replicate.predictions.async_create(
        version=VERSION,
        input={"img": io.BytesIO(await request.body()), "scale": 2},
        webhook=f"{PUBLIC_URL}/webhook",
        webhook_events_filter=["completed"],
    )
    jobs.setdefault(prediction.id, {"status": prediction.status, "output": None, "created": time.time(), "webhooks": 0})
    return {"id": prediction.id}


@app.get("/photos/{job_id}")
async def show(job_id: str):
    if job_id not in jobs:
        raise HTTPException(404)
    job = jobs[job_id]
    waiting = job["status"] not in ("succeeded", "failed", "canceled")
    stale = waiting and time.time() - job["created"] > STALE_AFTER_S
    return {**job, "status": "stale" if stale else job["status"]}


@app.post("/webhook")
async def webhook(request: Request):
    body = await request.body()
    try:
        replicate.webhooks.validate(headers=dict(request.headers), body=body.decode(), secret=secret, tolerance=300)
    except WebhookValidationError as error:
        raise HTTPException(401, str(error)) from error
    if request.headers["webhook-id"] not in delivered:
        delivered.add(request.headers["webhook-id"])
        prediction = await request.json()
        job = jobs.setdefault(prediction["id"], {"created": time.time(), "webhooks": 0})  # it may beat our own answer
        job.update(status=prediction["status"], output=prediction["output"], webhooks=job["webhooks"] + 1)
    return {}
