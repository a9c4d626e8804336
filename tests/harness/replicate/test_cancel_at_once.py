"""A prediction cancelled in the instant in which it starts must not take the model server with it."""

from __future__ import annotations

import asyncio
import base64
import random
from pathlib import Path

import pytest

from harness.model_server.client import ModelServer, new_prediction_id


@pytest.mark.parametrize("by_id", [False, True])
def test_the_slot_is_free_again_whenever_the_cancellation_comes(
    enlarging_model: str, tiny_photo: Path, by_id: bool
) -> None:
    moments = random.Random(1)
    img = "data:image/png;base64," + base64.b64encode(tiny_photo.read_bytes()).decode()

    async def scenario() -> None:
        async with ModelServer(enlarging_model) as server:
            for _ in range(30):
                name = new_prediction_id()
                run = asyncio.create_task(server.run(name, {"img": img, "seconds": 20}))
                await asyncio.sleep(moments.uniform(0.002, 0.012))
                if not (by_id and await server.cancel(name)):
                    run.cancel()
                await asyncio.wait([run])
                assert run.cancelled() or run.result().status == "canceled"
                after = await server.run(new_prediction_id(), {"img": img}, timeout_s=10)
                assert after.status == "succeeded"

    asyncio.run(scenario())
