"""The whole pipeline on a real photo, exact: with stand-in weights the result is known to the grey level."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from whole_photo import bilinear, whole_photo_reference

from restoration import alignment, networks
from restoration.detection import Face
from restoration.errors import InputError, InvalidInput, OutOfMemory, WeightsCorrupt, WeightsMissing
from restoration.images import Pixels, resize
from restoration.networks import Part, Upscaler
from restoration.restorer import Options, Restored, Restorer
from restoration.settings import REPOSITORY, Settings
from restoration.standin import PARSENET_LABEL, TINTS, record_detection

Array = NDArray[Any]
FAST = Options(background="lanczos")


def as_png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(restored: Restored) -> Array:
    return np.array(Image.open(io.BytesIO(restored.data))).astype(int)


@pytest.fixture(scope="module")
def restorer(standins: Path, portrait: Array) -> Restorer:
    """Loaded after the portrait's face went on record."""
    return Restorer(Settings(weights=standins, detector="recorded", device="cpu", precision="fp32"))


@pytest.fixture
def quick(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> Restorer:
    """The same, without the seconds that ParseNet takes to say what its stand-in always says."""
    monkeypatch.setattr(restorer, "_parser", lambda crops: np.full(crops.shape[:3], PARSENET_LABEL, np.uint8))
    return restorer


@pytest.fixture
def trained() -> Path:
    weights = REPOSITORY / "weights"
    needed = ("GFPGANv1.4.pth", "parsing_parsenet.pth", "detection_Resnet50_Final.pth", "realesr-general-x4v3.pth")
    if missing := [name for name in needed if not (weights / name).exists()]:
        pytest.skip(f"no trained weights in {weights.name}/ ({', '.join(missing)}): make weights")
    return weights


@pytest.fixture(scope="module")
def portrait(standins: Path, astronaut: Array) -> Array:
    """The astronaut's head: (200, 180, 3), off centre and of odd proportions, its face on record."""
    landmarks = np.array([(203.6, 101.1), (247.5, 104.6), (223.3, 129.3), (200.9, 138.4), (245.6, 141.2)]) - (140, 5)
    photo = np.ascontiguousarray(astronaut[5:205, 140:320])
    face = {"box": [30.0, 55.0, 125.0, 170.0], "score": 0.999, "landmarks": landmarks.tolist()}
    record_detection(standins, photo, [face])  # type: ignore[list-item]  # a TypedDict spelled as JSON
    return photo


@pytest.fixture(scope="module")
def portrait_png(portrait: Array) -> bytes:
    return as_png(portrait)


@pytest.fixture(scope="module")
def matrix() -> Array:
    """Photo -> crop of the portrait's face."""
    landmarks = np.array([(203.6, 101.1), (247.5, 104.6), (223.3, 129.3), (200.9, 138.4), (245.6, 141.2)]) - (140, 5)
    found = alignment.alignment(landmarks)
    assert found is not None
    return found


def expected(photo: Array, matrix: Array, scale: float, tint: tuple[int, int, int] = (0, 0, 0)) -> Array:
    """What stand-in weights must give, computed without the pipeline: float64, whole photo, exact pixel centres."""
    size = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
    enlarged = resize(photo.repeat(4, axis=0).repeat(4, axis=1), size)
    crop_to_photo = cv2.invertAffineTransform(matrix)
    y, x = np.mgrid[0:512, 0:512].astype(np.float64)
    at = np.stack([crop_to_photo[i, 0] * x + crop_to_photo[i, 1] * y + crop_to_photo[i, 2] for i in (0, 1)])
    crop = bilinear(photo.astype(np.float64), at, outside=(132, 133, 135))
    halved = crop.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    passed = cv2.resize(halved, (512, 512), interpolation=cv2.INTER_LINEAR) + np.array(tint)
    mask = np.zeros((512, 512))
    mask[10:-10, 10:-10] = 1
    stretch = np.array(size) / (photo.shape[1], photo.shape[0])
    photo_from_output = np.array(
        [[1 / stretch[0], 0, 0.5 / stretch[0] - 0.5], [0, 1 / stretch[1], 0.5 / stretch[1] - 0.5]]
    )
    to_crop = matrix @ np.vstack([photo_from_output, [0, 0, 1]])
    return whole_photo_reference(enlarged, [(np.clip(passed, 0, 255), mask, to_crop)])


@pytest.fixture(scope="module")
def enlarged_twice(restorer: Restorer, portrait_png: bytes) -> Array:
    return pixels_of(restorer.restore(portrait_png, Options()))


def test_the_result_is_the_enlarged_photo_with_the_known_loss(
    enlarged_twice: Array, portrait: Array, matrix: Array
) -> None:
    known = expected(portrait, matrix, 2)
    assert enlarged_twice.shape == (400, 360, 3)
    difference = np.abs(enlarged_twice - known)
    # Rounded to whole grey levels three times: as a crop, by the network, in the result.
    assert difference.max() <= 2.5
    assert difference.mean() < 0.3


@pytest.mark.parametrize(
    "error",
    [
        lambda result: np.roll(result, 1, axis=1),  # half a pixel of the photo, one of the result
        lambda result: (result + np.roll(result, 1, axis=0)) // 2,  # half a pixel of the result
        lambda result: result[..., ::-1],  # BGR for RGB
        lambda result: result // 2 + 64,  # [-1, 1] taken for [0, 1]
    ],
    ids=["shift", "half shift", "channels", "range"],
)
def test_the_comparison_would_notice(
    error: Callable[[Array], Array], enlarged_twice: Array, portrait: Array, matrix: Array
) -> None:
    face = slice(110, 340), slice(60, 250)
    difference = np.abs(error(enlarged_twice) - expected(portrait, matrix, 2))[face]
    assert difference.max() > 10


@pytest.mark.parametrize("scale", [0.3, 1, 1.37, 10])
def test_every_scale_gives_its_size_and_the_photo_itself_at_strength_0(
    quick: Restorer, portrait_png: bytes, portrait: Array, scale: float
) -> None:
    result = pixels_of(quick.restore(portrait_png, Options(scale=scale, background="lanczos", strength=0)))
    assert result.shape == (round(200 * scale), round(180 * scale), 3)
    np.testing.assert_array_equal(result, resize(portrait, (result.shape[1], result.shape[0])))


def test_each_version_answers_for_itself(quick: Restorer, portrait_png: bytes) -> None:
    """Upstream served RestoreFormer to the next caller of GFPGAN. Every switch, there and back."""
    cheek = slice(230, 240), slice(150, 160)
    seen: dict[str, Array] = {}
    for version in ("v1.4", "v1.3", "RestoreFormer", "v1.2", "v1.4"):
        result = pixels_of(quick.restore(portrait_png, Options(version=version, background="lanczos")))[cheek]
        if version in seen:
            np.testing.assert_array_equal(result, seen[version])
        seen[version] = result
    for version in ("v1.3", "v1.2"):
        difference = (seen[version] - seen["v1.4"]).mean(axis=(0, 1))
        np.testing.assert_allclose(difference, TINTS[f"GFPGAN{version}.pth"], atol=1)
    assert np.ptp(seen["RestoreFormer"], axis=(0, 1)).max() <= 1


def test_equal_calls_give_equal_bytes_and_a_failure_between_them_changes_nothing(
    quick: Restorer, portrait_png: bytes
) -> None:
    first = quick.restore(portrait_png, FAST).data
    with pytest.raises(InputError):
        quick.restore(portrait_png[:5000], FAST)
    assert quick.restore(portrait_png, FAST).data == first


def test_no_face_is_no_error(restorer: Restorer) -> None:
    sky = np.full((30, 50, 3), (90, 140, 220), np.uint8)
    restored = restorer.restore(as_png(sky), FAST)
    assert restored.faces == []
    assert restored.size == (100, 60)
    np.testing.assert_array_equal(pixels_of(restored), np.broadcast_to((90, 140, 220), (60, 100, 3)))


SHAPE = np.array([(0, 0), (44, 3), (20, 28), (-3, 37), (42, 40)], float)
FACES = [
    Face((20, 180, 80, 250), 0.99, SHAPE * 0.5 + (40, 200)),
    Face((400, 100, 560, 300), 0.98, SHAPE * 2 + (430, 150)),
    Face((200, 10, 206, 18), 0.975, SHAPE * 0.1 + (200, 10)),
    Face((290, 190, 310, 210), 0.971, np.full((5, 2), np.nan)),
]


@pytest.mark.parametrize(
    ("which", "restored"),
    [("all", [True, True, False, False]), ("largest", [False, True, False, False]), ("center", [False] * 4)],
)
def test_every_face_is_accounted_for(
    quick: Restorer, which: str, restored: list[bool], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick._versions, "get", lambda version: lambda crops: crops)
    monkeypatch.setattr(quick, "_detect", lambda photo: FACES)
    with caplog.at_level(logging.INFO):
        outcome = quick.restore(
            as_png(np.full((400, 600, 3), 128, np.uint8)), Options(faces=which, background="lanczos", scale=1)
        )
    assert [face.restored for face in outcome.faces] == restored
    lines = [message for message in caplog.messages if message.startswith("face:")]
    assert len(lines) == 4
    assert "score 0.990, 60x70 pixels" in lines[0]
    assert all(face.restored == ("restored" in line) for face, line in zip(outcome.faces, lines, strict=True))
    if which == "all":
        assert lines[2].endswith("too small: eyes less than 5 pixels apart")
        assert lines[3].endswith("landmarks are not those of a face")
    if which == "largest":
        assert lines[0].endswith("not the largest face")


def test_strength_blends_the_restored_face_over_the_original(
    quick: Restorer, portrait_png: bytes, portrait: Array
) -> None:
    def at(strength: float) -> Array:
        options = Options(version="RestoreFormer", background="lanczos", scale=1, strength=strength)
        return pixels_of(quick.restore(portrait_png, options))[115:125, 70:80]

    np.testing.assert_array_equal(at(0), portrait[115:125, 70:80])
    np.testing.assert_allclose(at(0.5), (at(0) + at(1)) / 2, atol=1)


class Greedy:
    """A network that has no memory for batches of more than `most` images, or for images of more than `side` pixels."""

    scale = 4

    def __init__(self, network: Upscaler, most: int, side: int) -> None:
        self.network, self.most, self.side = network, most, side

    def resampled(self, batch: Pixels, parts: Sequence[Part]) -> list[Pixels]:
        if batch.shape[0] > self.most or max(batch.shape[1:3]) > self.side:
            raise OutOfMemory("the device is full")
        return self.network.resampled(batch, parts)


def test_out_of_memory_is_tried_once_more_with_less(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (100, 400, 3), dtype=np.uint8)
    options = Options(scale=0.5)
    whole = restorer.restore(as_png(photo), options)
    monkeypatch.setattr(restorer, "_upscaler", Greedy(restorer._upscaler, most=1, side=200))
    leaner = restorer.restore(as_png(photo), options)
    np.testing.assert_array_equal(pixels_of(leaner), pixels_of(whole))
    assert "Trying once more" in caplog.text


def test_out_of_memory_twice_is_a_clear_failure_and_the_next_call_works(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = as_png(np.zeros((40, 40, 3), np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr(restorer, "_upscaler", Greedy(restorer._upscaler, most=0, side=0))
        with pytest.raises(OutOfMemory, match=r"\[OUT_OF_MEMORY\]"):
            restorer.restore(photo, Options())
    assert restorer.restore(photo, Options()).size == (80, 80)


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("full")])
def test_pixels_that_do_not_fit_are_out_of_memory_too(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    if isinstance(error, cv2.error):
        error.code = cv2.Error.StsNoMem

    def full(*_: object) -> list[Face]:
        raise error

    monkeypatch.setattr(restorer, "_detect", full)
    with pytest.raises(OutOfMemory):
        restorer.restore(as_png(np.zeros((4, 4, 3), np.uint8)), FAST)


def test_face_networks_stay_within_their_bound(restorer: Restorer, caplog: pytest.LogCaptureFixture) -> None:
    bound = int(2.5 * restorer._versions.get("v1.4").nbytes)
    bounded = Restorer(replace(restorer.settings, max_network_bytes=bound))
    with caplog.at_level(logging.INFO):
        for version in ("v1.3", "v1.2", "v1.4"):
            bounded._versions.get(version)
    unloaded = [message.split()[0] for message in caplog.messages if "unloaded" in message]
    assert unloaded == ["v1.4", "v1.3"]
    assert sum(network.nbytes for network in bounded._versions._loaded.values()) <= bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "v9"}, "version"),
        ({"scale": 11}, "scale"),
        ({"strength": -0.1}, "strength"),
        ({"faces": "some"}, "faces"),
        ({"background": "none"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_quality": 0}, "output_quality"),
        ({"strength": float("nan")}, "strength"),
    ],
)
def test_the_engine_checks_its_options_itself(options: dict[str, Any], message: str) -> None:
    """Cog validates only where the schema file is at hand."""
    with pytest.raises(InvalidInput, match=message):
        Options(**options)


def test_missing_and_corrupt_weights_stop_the_start(standins: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_bytes((standins / "manifest.toml").read_bytes())
    settings = Settings(weights=tmp_path, detector="recorded", device="cpu", precision="fp32")
    with pytest.raises(WeightsMissing, match=r"GFPGANv1\.4\.pth"):
        Restorer(settings)
    (tmp_path / "GFPGANv1.4.pth").write_bytes(b"not the weights")
    with pytest.raises(WeightsCorrupt, match="expected 3"):
        Restorer(settings)


def test_the_pipeline_around_the_networks_imports_no_torch() -> None:
    """Another framework can then take torch's place and its start-up time."""
    import subprocess
    import sys

    program = "import sys, restoration.restorer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(networks.__file__).parents[1])


def test_parsenet_sees_faces_at_the_side_that_is_set(
    quick: Restorer, portrait_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = quick.restore(portrait_png, FAST)
    shapes = []

    def parser(crops: Array) -> Array:
        shapes.append(crops.shape)
        return np.full(crops.shape[:3], PARSENET_LABEL, np.uint8)

    monkeypatch.setattr(quick, "_parser", parser)
    monkeypatch.setattr(quick, "settings", replace(quick.settings, parser_side=256))
    assert quick.restore(portrait_png, FAST).data == before.data
    assert shapes == [(1, 256, 256, 3)]


@pytest.mark.photos
def test_parsenet_at_half_the_side_changes_no_photo_by_more_than_two_grey_levels(
    photos: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where trained weights are: what half the side costs is a question about them alone."""
    restorer = Restorer(Settings(weights=trained, device="cpu", precision="fp32"))
    for path in [*sorted(photos.glob("*.jpg")), *sorted(photos.glob("*.png"))]:
        whole = pixels_of(restorer.restore(path.read_bytes(), FAST))
        with monkeypatch.context() as patch:
            patch.setattr(restorer, "settings", replace(restorer.settings, parser_side=256))
            half = pixels_of(restorer.restore(path.read_bytes(), FAST))
        assert np.abs(half - whole).max() <= 2, path.name
