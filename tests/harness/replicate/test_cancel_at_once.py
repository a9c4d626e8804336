"""A prediction cancelled in the instant in which it starts must not take the model server with it."""

from __future__ import annotations

import asyncio
import base64
import random
from pathlib import Path

from harness.model_server.client import ModelServer, new_prediction_id


def test_the_slot_is_free_again_whenever_the_cancellation_comes(enlarging_model: str, tiny_photo: Path) -> None:
    moments = random.Random(1)
    img = "data:image/png;base64," + base64.b64encode(tiny_photo.read_bytes()).decode()

    async def scenario() -> None:
        async with ModelServer(enlarging_model) as server:
            for _ in range(30):
                run = asyncio.create_task(server.run(new_prediction_id(), {"img": img, "seconds": 20}))
                await asyncio.sleep(moments.uniform(0.002, 0.012))
                run.cancel()
                await asyncio.wait([run])
                assert run.cancelled()
                after = await server.run(new_prediction_id(), {"img": img}, timeout_s=10)
                assert after.status == "succeeded"

    asyncio.run(scenario())
