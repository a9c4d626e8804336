"""A GPU's pictures are resampled where they are; here its code runs on the CPU, beside the CPU's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from restoration import openvino_networks, torch_networks
from restoration.background import upscale
from restoration.lanczos import resample
from restoration.networks import Part

Images = npt.NDArray[np.uint8]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 60), st.integers(1, 60), st.integers(1, 90), st.integers(1, 90))
def test_it_is_pillow_s_filter_without_the_rounding(
    data: st.DataObject, width: int, height: int, out_width: int, out_height: int
) -> None:
    left, top = data.draw(st.floats(0, width - 0.5)), data.draw(st.floats(0, height - 0.5))
    part = Part(
        (out_width, out_height),
        (left, top, data.draw(st.floats(left + 0.25, width)), data.draw(st.floats(top + 0.25, height))),
    )
    plane = np.random.default_rng(0).uniform(0, 255, (height, width)).astype(np.float32)
    expected = np.asarray(Image.fromarray(plane).resize(part.size, Image.Resampling.LANCZOS, part.box))
    np.testing.assert_allclose(resample(torch.from_numpy(plane), part).numpy(), expected, atol=0.05)


def test_a_gpu_s_background_is_the_cpu_s(random_realesrgan: Path, astronaut: Images) -> None:
    """With a real network, in tiles, at scales that shrink and that enlarge what it makes."""
    photo = astronaut[:90, 150:280]
    on_cpu = openvino_networks.upscaler(random_realesrgan, "fp32", None)
    on_gpu = torch_networks.upscaler(random_realesrgan, "cpu", "fp32")
    for scale in 0.7, 2, 5:
        size = round(130 * scale), round(90 * scale)
        one, other = (upscale(photo, size, network, tile=64, batch=2) for network in (on_cpu, on_gpu))
        difference = np.abs(one.astype(int) - other)
        assert one.std() > 15
        # The CPU rounds three times, once enlarged and once for each axis, and cuts what overshoots in between.
        assert difference.mean() < 0.5
        assert difference.max() <= 6
