"""Four photos at once with Replicate's Python client: progress from the logs, one cancelled half-way.

python async_batch.py a.jpg b.jpg c.jpg d.jpg
"""

import asyncio
import io
import sys
from pathlib import Path

import replicate

VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"


async def follow(prediction, on_progress):
    """Poll with exponential backoff until the prediction has ended."""
    pause, seen = 0.1, ""
    while prediction.status not in ("succeeded", "failed", "canceled"):
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 2)
        await prediction.async_reload()
        logs = prediction.logs or ""
        if logs != seen:
            await on_progress(logs[len(seen) :].rstrip().splitlines()[-1])
            seen = logs


async def restore(path, *, cancel_half_way=False):
    photo = io.BytesIO(await asyncio.to_thread(Path(path).read_bytes))
    prediction = await replicate.predictions.async_create(version=VERSION, input={"img": photo, "version": "v1.4"})

    async def on_progress(line):
        print(f"{path}: {line}")
        if cancel_half_way:
            await prediction.async_cancel()

    await follow(prediction, on_progress)
    print(f"{path}: {prediction.status} {prediction.output}")


async def main(paths):
    await asyncio.gather(*(restore(path, cancel_half_way=path == paths[-1]) for path in paths))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
