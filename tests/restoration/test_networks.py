"""Loading checkpoints and running networks: what a photo's owner would notice when it goes wrong.

That the results are right is shown in test_networks_parity.py and test_standin.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from restoration import networks, openvino_networks, torch_networks
from restoration.errors import DeviceUnavailable, NotANumber, OutOfMemory, WeightsCorrupt
from restoration.networks import (
    Network,
    Precision,
    load_face_detector,
    load_face_parser,
    load_face_restorer,
    load_upscaler,
)
from restoration.openvino_networks import has_bf16

Images = npt.NDArray[np.uint8]

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")
LOADERS: dict[str, Callable[[Path], Any]] = {
    "restorer": load_face_restorer,
    "parser": load_face_parser,
    "detector": lambda path: load_face_detector(path, "mobilenet0.25"),
    "upscaler": load_upscaler,
}


def test_naming_the_networks_imports_no_framework() -> None:
    """The pipeline must start fast, and another backend must be able to replace torch."""
    script = "import restoration.networks, sys; print(*{'torch', 'openvino', 'facexlib', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_two_faces_at_once_are_restored_as_one_by_one(
    face: Images, exact_gfpgan: Network, randomly_restored: Images
) -> None:
    """Also shows that the noise is the checkpoint's: fresh noise would change the second answer by tens of levels."""
    mirrored, restored = exact_gfpgan(np.stack([face[:, ::-1], face]))
    assert np.abs(restored.astype(int) - randomly_restored).max() <= 1
    assert np.abs(mirrored.astype(int) - restored).max() > 50


@needs_bf16
def test_bf16_stays_close_to_fp32(
    face: Images, random_gfpgan: Path, exact_gfpgan: Network, randomly_restored: Images
) -> None:
    network = load_face_restorer(random_gfpgan, precision="bf16")
    assert decibels(network(face[np.newaxis])[0], randomly_restored) > 45
    assert network.nbytes < 0.52 * exact_gfpgan.nbytes


@needs_bf16
def test_the_enlarged_background_stays_close_in_bf16(astronaut: Images, random_realesrgan: Path) -> None:
    tile = astronaut[np.newaxis, 40:140, 160:280]
    [exact], [rounded] = (load_upscaler(random_realesrgan, precision=precision)(tile) for precision in PRECISIONS)
    assert decibels(rounded, exact) > 45


class Fp16Convolutions(TorchFunctionMode):
    """Convolve fp16 as a GPU's matrix units do, products added up in fp32: the CPU's own way takes minutes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 # torch's own
        if func is functional.conv2d and args[0].dtype == torch.float16:
            widened: Any = [value.float() if isinstance(value, torch.Tensor) else value for value in args]
            return func(*widened, **(kwargs or {})).half()
        return func(*args, **(kwargs or {}))


def restored_in_fp16(path: Path, face: Images) -> Images:
    with Fp16Convolutions():
        [restored] = torch_networks.face_restorer(path, "cpu", "fp16")(face[np.newaxis])
    return np.asarray(restored)


def test_fp16_stays_close_to_fp32(face: Images, random_gfpgan: Path, randomly_restored: Images) -> None:
    assert decibels(restored_in_fp16(random_gfpgan, face), randomly_restored) > 45


def test_fp16_survives_styles_and_weights_that_overflow_in_it(
    tmp_path: Path, face: Images, random_gfpgan: Path, randomly_restored: Images
) -> None:
    """Demodulation takes every factor out again: the picture is the same, though factors alone are beyond fp16."""
    content = torch.load(random_gfpgan, weights_only=True)
    for name, value in content["params_ema"].items():
        if "style_conv" in name and "modulation." in name:
            value.mul_(3e4)
        elif "style_conv" in name and "modulated_conv.weight" in name:
            value.mul_(300)
    torch.save(content, tmp_path / "large.pth")
    assert decibels(restored_in_fp16(tmp_path / "large.pth", face), randomly_restored) > 45


def test_a_result_beyond_fp16_is_an_error_and_no_black_face(tmp_path: Path, face: Images, random_gfpgan: Path) -> None:
    content = torch.load(random_gfpgan, weights_only=True)
    content["params_ema"]["conv_body_first.weight"].mul_(1e6)
    torch.save(content, tmp_path / "beyond.pth")
    with pytest.raises(NotANumber, match="RESTORATION_PRECISION"):
        restored_in_fp16(tmp_path / "beyond.pth", face)


def test_restoreformer_stays_in_fp32(random_restoreformer: Path, exact_restoreformer: Network) -> None:
    """In bf16 its codebook picks other entries: measured, a mean of 22 grey levels away."""
    assert load_face_restorer(random_restoreformer, precision="bf16").nbytes == exact_restoreformer.nbytes


def test_the_same_image_gives_the_same_bytes(face: Images, random_realesrgan: Path) -> None:
    upscaler = load_upscaler(random_realesrgan)
    tile = face[np.newaxis, 200:264, 200:264]
    assert upscaler(tile).tobytes() == upscaler(tile).tobytes() == load_upscaler(random_realesrgan)(tile).tobytes()


def test_views_and_read_only_images_are_taken(face: Images, random_realesrgan: Path) -> None:
    upscaler = load_upscaler(random_realesrgan)
    view = face[np.newaxis, 264:200:-2, 200:264:2, ::-1]
    read_only = view.copy()
    read_only.flags.writeable = False
    assert np.array_equal(upscaler(view), upscaler(read_only))


def test_parameter_bytes_are_those_of_the_file(random_realesrgan: Path) -> None:
    state = torch.load(random_realesrgan, weights_only=True)["params"]
    stored = sum(value.nbytes for value in state.values())
    assert load_upscaler(random_realesrgan).nbytes == pytest.approx(stored, rel=1e-3)  # and a few constants


def test_files_of_the_old_format_load(tmp_path: Path, random_realesrgan: Path, face: Images) -> None:
    """RetinaFace's published files are older than torch's zip format, and cannot be memory-mapped."""
    old = tmp_path / "old.pth"
    content = torch.load(random_realesrgan, weights_only=True)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    tile = face[np.newaxis, :32, :32]
    assert np.array_equal(load_upscaler(old)(tile), load_upscaler(random_realesrgan)(tile))


@pytest.mark.parametrize("kind", ["restorer", "parser", "detector"])
def test_a_checkpoint_of_another_network_is_refused(kind: str, random_realesrgan: Path) -> None:
    with pytest.raises(WeightsCorrupt, match=r"realesrgan\.pth is a checkpoint of another network"):
        LOADERS[kind](random_realesrgan)


def test_a_detector_with_the_other_backbone_is_refused(tmp_path: Path) -> None:
    from facexlib.detection.retinaface import RetinaFace

    path = tmp_path / "mobilenet.pth"
    torch.save(RetinaFace("mobile0.25", device="cpu").state_dict(), path)
    with pytest.raises(WeightsCorrupt, match="another network"):
        load_face_detector(path, "resnet50")


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><title>Not found</title>", b"PK\x03\x04 no archive", b"\x80\x02 no pickle"],
    ids=["empty", "html", "zip", "pickle"],
)
def test_files_that_are_no_checkpoints_are_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=r"weights\.pth is no readable checkpoint"):
        LOADERS[kind](path)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_are_refused(zipped: bool, tmp_path: Path, random_realesrgan: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torch.load(random_realesrgan, weights_only=True), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsCorrupt, match="no readable checkpoint"):
        load_upscaler(path)


def drop_one(state: dict[str, Any]) -> None:
    del state["body.2.weight"]


def reshape_one(state: dict[str, Any]) -> None:
    state["body.2.weight"] = state["body.2.weight"][:, :-1]


def add_one(state: dict[str, Any]) -> None:
    state["surplus.weight"] = torch.zeros(1)


def put_text(state: dict[str, Any]) -> None:
    state["body.2.weight"] = "text"


def empty(state: dict[str, Any]) -> None:
    state.clear()


@pytest.mark.parametrize("damage", [drop_one, reshape_one, add_one, put_text, empty])
def test_a_checkpoint_must_fit_exactly(damage: Callable[[Any], None], tmp_path: Path, random_realesrgan: Path) -> None:
    content = torch.load(random_realesrgan, weights_only=True)
    damage(content["params"])
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(WeightsCorrupt, match=r"weights\.pth"):
        load_upscaler(path)


def test_a_missing_file_is_not_called_corrupt(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_upscaler(tmp_path / "none.pth")


STARVED = """
import resource, sys
from pathlib import Path
import numpy as np
from restoration.errors import OutOfMemory
from restoration.networks import load_upscaler

upscaler = load_upscaler(Path(sys.argv[1]))
small = np.zeros((1, 16, 16, 3), np.uint8)
upscaler(small)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
try:
    upscaler(np.zeros((1, 2048, 2048, 3), np.uint8))
except OutOfMemory as error:
    print(error, upscaler(small).shape)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its memory the Linux way")
def test_running_out_of_memory_is_told_and_survived(random_realesrgan: Path) -> None:
    """A real limit, met by the real allocator, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", STARVED, random_realesrgan], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("[OUT_OF_MEMORY] The cpu ran out of memory on a batch of shape (1, 2048, 2048, 3)"), (
        done.stderr
    )
    assert "(1, 64, 64, 3)" in done.stdout


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
    ],
    ids=["host", "cuda", "cublas"],
)
def test_every_allocator_s_error_becomes_ours(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="use smaller batches and tiles"):
        torch_networks._guarded(torch.device("cpu"), "a test", raising(error))


def test_openvino_s_allocation_errors_become_ours() -> None:
    with pytest.raises(OutOfMemory, match="use smaller batches and tiles"):
        openvino_networks._guarded("a test", raising(RuntimeError("Failed to allocate 268435456 bytes of memory")))
    with pytest.raises(RuntimeError, match="shapes"):
        openvino_networks._guarded("a test", raising(RuntimeError("the shapes differ")))


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="sizes of tensors"):
        torch_networks._guarded(torch.device("cpu"), "a test", raising(RuntimeError("the sizes of tensors differ")))


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def decibels(one: Images, other: Images) -> float:
    """Peak signal to noise, with tens of grey levels of signal."""
    assert other.std() > 15
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


def test_the_configured_precision_is_used_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_networks, "has_bf16", lambda: True)
    assert networks.resolve_precision("auto", "cpu") == networks.resolve_precision("bf16", "cpu") == "bf16"
    assert networks.resolve_precision("fp32", "cpu") == "fp32"
    monkeypatch.setattr(openvino_networks, "has_bf16", lambda: False)
    assert networks.resolve_precision("auto", "cpu") == "fp32"
    with pytest.raises(DeviceUnavailable, match="this cpu cannot compute in it"):
        networks.resolve_precision("bf16", "cpu")


def test_a_gpu_without_bf16_computes_in_fp16_if_it_has_matrix_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert networks.resolve_precision("auto", "cuda") == networks.resolve_precision("fp16", "cuda") == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    assert networks.resolve_precision("auto", "cuda") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert networks.resolve_precision("auto", "cuda") == "bf16"


def test_the_configured_device_is_used_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert networks.resolve_device("cpu") == networks.resolve_device("auto") == "cpu"
    with pytest.raises(DeviceUnavailable, match="no NVIDIA GPU"):
        networks.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert networks.resolve_device("auto") == networks.resolve_device("cuda") == "cuda"
