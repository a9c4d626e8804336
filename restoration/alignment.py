"""Between a face in the photo and the 512x512 crop that the networks take, and back, each face in its own region."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from restoration import cores
from restoration.images import Pixels

CROP = 512
"""Side of an aligned crop, in pixels."""
Affine = NDArray[np.float64]
"""(2, 3): from pixel centres of one picture to pixel centres of another."""
Mask = NDArray[np.float32]

# Where the FFHQ data set puts eyes, nose and mouth corners in a 512x512 crop (facexlib's template).
_TEMPLATE = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
_OUTSIDE = (132, 133, 135)  # RGB; the grey that GFPGAN was trained to see beyond the edge of a photo
# ParseNet's 19 classes less background (0), hat (14), necklace (16), neck (17) and cloth (18).
_FACE_LABELS = np.isin(np.arange(256), (*range(1, 14), 15))
_BORDER = 10  # pixels of a crop that never show: the network is weakest there
_BAND_PIXELS = 65_536  # blended at a time by one core, in its cache


def alignment(landmarks: NDArray[np.float64]) -> Affine | None:
    """Estimate photo -> crop, a similarity, from (5, 2) landmarks; None where they lie in no plausible shape."""
    matrix = cv2.estimateAffinePartial2D(landmarks, _TEMPLATE, method=cv2.LMEDS)[0]
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        return None
    return np.asarray(matrix, np.float64)


def crop(rgb: Pixels, matrix: Affine) -> Pixels:
    """Cut the (512, 512, 3) aligned face out of a photo, grey where the photo ends."""
    return np.asarray(cv2.warpAffine(rgb, matrix, (CROP, CROP), flags=cv2.INTER_LINEAR, borderValue=_OUTSIDE), np.uint8)


def shrunk(face: Pixels, side: int) -> Pixels:
    """A (512, 512, 3) crop at (side, side, 3), for ParseNet."""
    return face if side == CROP else np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def soft_mask(labels: NDArray[np.uint8]) -> Mask:
    """Turn ParseNet's classes into how much of the restored crop shows, (512, 512) from 0 to 1, softly.

    labels: (512, 512), or smaller. Blurred as the reference does it, but at half the side: nowhere 0.01 apart, and in
    an eighth of the time.
    """
    mask: Mask = _FACE_LABELS[labels].astype(np.float32)
    mask = _resized(mask, CROP // 2, cv2.INTER_AREA)
    for _ in range(2):
        mask = cv2.GaussianBlur(mask, (51, 51), 5.5).astype(np.float32, copy=False)
    mask = _resized(mask, CROP, cv2.INTER_LINEAR)
    inner = np.zeros_like(mask)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = mask[_BORDER:-_BORDER, _BORDER:-_BORDER]
    return inner


def _resized(mask: Mask, side: int, interpolation: int) -> Mask:
    return np.asarray(cv2.resize(mask, (side, side), interpolation=interpolation), np.float32)


def enlarged(matrix: Affine, scale: tuple[float, float]) -> Affine:
    """Photo -> crop becomes enlarged photo -> crop; `scale` is output / input in x and y.

    Pixel centres: output x lies over input (x + 0.5) / scale - 0.5.
    """
    shrink = np.diag(1 / np.array(scale))
    offset = 0.5 / np.array(scale) - 0.5
    return np.hstack([matrix[:, :2] @ shrink, (matrix[:, :2] @ offset + matrix[:, 2])[:, None]])


def paste(canvas: Pixels, face: Pixels, mask: Mask, matrix: Affine) -> None:
    """Blend a (512, 512, 3) crop into `canvas` (height, width, 3), in place: canvas + mask * (face - canvas).

    `matrix` maps canvas to crop. Only pixels that the mask reaches are read or written.
    """
    left, top, right, bottom = _reach(mask, matrix, canvas.shape)
    if left >= right or top >= bottom:
        return
    layers, matrix = _low_passed(np.dstack([face.astype(np.float32), mask]), matrix)
    rows = max(1, _BAND_PIXELS // (right - left))

    def blend(start: int) -> None:
        _blend(canvas[start : min(start + rows, bottom), left:right], layers, _shifted(matrix, left, start))

    cores.each(blend, range(top, bottom, rows))


def _low_passed(layers: NDArray[np.float32], matrix: Affine) -> tuple[NDArray[np.float32], Affine]:
    """Shrink the crop by a whole factor where the canvas has fewer pixels, lest thin lines flicker in and out."""
    factor = int(np.sqrt(abs(np.linalg.det(matrix[:, :2]))) + 1e-6)
    if factor < 2:
        return layers, matrix
    side = CROP // factor * factor
    small = cv2.resize(layers[:side, :side], None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    centred = np.hstack([matrix[:, :2], (matrix[:, 2] + 0.5)[:, None]]) / factor
    return np.asarray(small, np.float32), centred - [[0, 0, 0.5], [0, 0, 0.5]]


def _blend(band: Pixels, layers: NDArray[np.float32], matrix: Affine) -> None:
    size = band.shape[1], band.shape[0]
    warped = cv2.warpAffine(layers, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    alpha = warped[..., 3:]
    blended = band + alpha * (warped[..., :3] - band)
    np.rint(blended, out=blended)
    band[:] = np.clip(blended, 0, 255)


def _shifted(matrix: Affine, left: int, top: int) -> Affine:
    """The same mapping from a picture that begins at (left, top)."""
    return np.hstack([matrix[:, :2], (matrix @ (left, top, 1.0))[:, None]])


def _reach(mask: Mask, matrix: Affine, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (the latter two excluded) of the canvas pixels that `mask` can touch."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    x, y = (columns[0] - 1, columns[-1] + 1), (rows[0] - 1, rows[-1] + 1)
    corners = np.array([(x[i], y[j], 1.0) for i in (0, 1) for j in (0, 1)])
    on_canvas = corners @ cv2.invertAffineTransform(matrix).T
    left, top = np.floor(on_canvas.min(axis=0)).astype(int)
    right, bottom = np.ceil(on_canvas.max(axis=0)).astype(int) + 1
    return max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])
