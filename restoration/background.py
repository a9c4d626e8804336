"""The rest of the photo: enlarged by Real-ESRGAN in overlapping tiles (`images.resize` is the plain way)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from restoration.images import Pixels, Size
from restoration.networks import Part, Upscaler

log = logging.getLogger(__name__)

# 34 layers of 3x3 convolutions see 34 pixels far in realesr-general-x4v3: with that overlap no tile has a seam.
_REACH = 34
_LANCZOS_REACH = 3  # filter half-width, in output pixels when the filter shrinks


@dataclass(frozen=True)
class Span:
    """One tile along one side."""

    out_start: int
    out_stop: int
    start: int
    """Where its window begins in the photo."""


def upscale(rgb: Pixels, size: Size, network: Upscaler, tile: int, batch: int) -> Pixels:
    """Enlarge (height, width, 3) to `size` with the network, then Lanczos from its factor to the wanted one.

    Works through windows of about `tile` pixels a side, all of one shape, `batch` at a time; the result does not
    depend on either.
    """
    height, width = rgb.shape[:2]
    columns, window_width = _spans(width, size[0], network.scale, tile)
    rows, window_height = _spans(height, size[1], network.scale, tile)
    canvas = np.empty((size[1], size[0], 3), np.uint8)
    tiles = [(row, column) for row in rows for column in columns]
    for first in range(0, len(tiles), batch):
        some = tiles[first : first + batch]
        windows = np.stack([rgb[r.start : r.start + window_height, c.start : c.start + window_width] for r, c in some])
        parts = [_part(row, column, rgb.shape, size, network.scale) for row, column in some]
        for (row, column), pixels in zip(some, network.resampled(windows, parts), strict=True):
            canvas[row.out_start : row.out_stop, column.out_start : column.out_stop] = pixels
        log.info("background: %d of %d tiles", first + len(some), len(tiles))
    return canvas


def _spans(length: int, out_length: int, scale: int, tile: int) -> tuple[list[Span], int]:
    """Divide one side into equal tiles; returns them and the length of every window in the photo."""
    count = min(math.ceil(length / tile), out_length)
    edges = [round(i * out_length / count) for i in range(count + 1)]
    spans = list(pairwise(edges))
    ratio = out_length / length
    margin = _REACH + math.ceil(_LANCZOS_REACH * max(1.0, scale / ratio) / scale) + 1
    longest = max(stop - start for start, stop in spans)
    window = min(length, math.ceil(longest / ratio) + 2 * margin + 1)
    starts = [min(max(0, math.floor(edge / ratio) - margin), length - window) for edge in edges[:-1]]
    return [Span(*edge, start) for edge, start in zip(spans, starts, strict=True)], window


def _part(row: Span, column: Span, shape: tuple[int, ...], size: Size, scale: int) -> Part:
    """What is wanted of the enlarged window of a tile."""
    left, right = _box(column, shape[1], size[0], scale)
    top, bottom = _box(row, shape[0], size[1], scale)
    wanted = column.out_stop - column.out_start, row.out_stop - row.out_start
    return Part(wanted, (left, top, right, bottom))


def _box(span: Span, length: int, out_length: int, scale: int) -> tuple[float, float]:
    """Where the tile lies in its enlarged window."""
    first, last = (min(edge * length / out_length, length) - span.start for edge in (span.out_start, span.out_stop))
    return first * scale, last * scale
