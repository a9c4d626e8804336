"""The filter of `restoration.images.resize`, for pixels that lie on a GPU.

Enlarged tiles are mostly shrunk again. A CPU takes longer for that than a GPU for the network, and would have to be
sent four times the bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from restoration.networks import Part

_LOBES = 3


def resample(planes: Tensor, part: Part) -> Tensor:
    """(..., H, W) fp32 -> (..., height, width), unrounded, by one matrix product for each axis."""
    (width, height), (left, top, right, bottom) = part.size, part.box
    columns = _weights(planes.shape[-1], width, left, right, planes.device)
    rows = _weights(planes.shape[-2], height, top, bottom, planes.device)
    return rows @ (planes @ columns.T)


def _weights(length: int, out_length: int, start: float, stop: float, device: torch.device) -> Tensor:
    """(out_length, length): how much of every pixel is in every result; the filter grows as the picture shrinks."""
    step = (stop - start) / out_length
    pixels, results = (torch.arange(n, dtype=torch.float64, device=device) + 0.5 for n in (length, out_length))
    distance = (pixels - (start + step * results)[:, None]) / max(1.0, step)
    weights = torch.sinc(distance) * torch.sinc(distance / _LOBES) * (distance.abs() < _LOBES)
    return (weights / weights.sum(dim=1, keepdim=True)).float()
