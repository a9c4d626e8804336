"""Models that the gate must not let through: the one in tests/toys/grey, each with one thing wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLEAN = Path(__file__).resolve().parents[1] / "toys" / "grey"

Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Broken:
    """What is wrong, how the clean model gets it, and the finding: its code, file, and words of its sentence."""

    name: str
    edit: Edit
    code: str
    file: str
    words: str


def make(edit: Edit, root: Path) -> Path:
    """Copy the clean model to `root` and edit it."""
    shutil.copytree(CLEAN, root, dirs_exist_ok=True)
    edit(root)
    return root


def replaced(file: str, old: str, new: str) -> Edit:
    """Put `new` in place of `old`, which must be there."""

    def edit(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text, f"{old!r} is not in {file}"
        (root / file).write_text(text.replace(old, new))

    return edit


def written(file: str, text: str) -> Edit:
    """Write a file."""

    def edit(root: Path) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)

    return edit


def removed(file: str) -> Edit:
    """Remove a file."""
    return lambda root: (root / file).unlink()


def both(*edits: Edit) -> Edit:
    """Edit several times."""

    def edit(root: Path) -> None:
        for one in edits:
            one(root)

    return edit


PY, YAML, PINS = "predict.py", "cog.yaml", "requirements.txt"
SCALE = 'scale: float = Input(description="Size of the output.", default=2, ge=1, le=4)'
TONE = 'tone: str = Input(description="Which grey.", default="light", choices=["light", "dark", "middle"])'
RETURN = "        return Path(output)\n"
LET_IN = replaced(".dockerignore", "!weights", "!weights\n!extra")

BREAKS_CALLERS = [
    Broken("input removed", replaced(PY, f"        {SCALE},\n", "        # scale = 2\n"),
           "INPUT_REMOVED", PY, "Input scale: is gone"),
    Broken("input renamed", replaced(PY, "img: Path", "image: Path"), "INPUT_REMOVED", PY, "Input img"),
    Broken("new required input",
           replaced(PY, f"{TONE},", f'{TONE},\n        mask: Path = Input(description="Where."),'),
           "INPUT_NEW_REQUIRED", PY, "Input mask: is new and has no default"),
    Broken("default removed", replaced(PY, "default=2, ", ""), "INPUT_REQUIRED", PY, "scale: could be left out"),
    Broken("type changed", replaced(PY, "scale: float", "scale: int"),
           "INPUT_TYPE", PY, "scale: the type was 'number' and is 'integer'"),
    Broken("maximum lowered", replaced(PY, "le=4", "le=3"), "INPUT_MAXIMUM", PY, "the maximum was 4 and is 3"),
    Broken("minimum raised", replaced(PY, "ge=1,", "ge=2,"), "INPUT_MINIMUM", PY, "the minimum was 1 and is 2"),
    Broken("choice removed", replaced(PY, ', "middle"]', "]"), "INPUT_CHOICE_REMOVED", PY, "'middle'"),
    Broken("file became text", replaced(PY, "img: Path", "img: str"), "INPUT_FORMAT", PY, "'uri' and is not set"),
    Broken("output became a list", replaced(PY, ") -> Path:", ") -> list[Path]:"),
           "OUTPUT_TYPE", PY, "was 'string' and is 'array'"),
]  # fmt: skip

WRONG_SOURCE = [
    Broken("input without description", replaced(PY, 'description="Which grey.", ', ""),
           "INPUT_UNDESCRIBED", PY, "tone has no description"),
    Broken("description in pieces", replaced(PY, '"Size of the output."', '"Size of " "the output."'),
           "INPUT_DESCRIPTION_IN_PIECES", PY, "scale"),
    Broken("bound is a constant",
           both(replaced(PY, "le=4", "le=MOST"), replaced(PY, "class P", "MOST = 4\n\n\nclass P")),
           "INPUT_BOUND_NOT_LITERAL", PY, "le of scale"),
    Broken("bound is computed", replaced(PY, "le=4", "le=2 * 2"), "INPUT_BOUND_NOT_LITERAL", PY, "le of scale"),
    Broken("choices are computed", replaced(PY, '["light", "dark", "middle"]', '[*("light", "dark")]'),
           "INPUT_CHOICES_NOT_LITERAL", PY, "choices of tone"),
    Broken("default out of bounds", replaced(PY, "default=2, ge=1", "default=0.5, ge=1"),
           "INPUT_DEFAULT_INVALID", PY, "0.5 of scale is below its own bound 1"),
    Broken("default of another type", replaced(PY, "default=2, ge=1, le=4", 'default="2"'),
           "INPUT_DEFAULT_INVALID", PY, "is no float"),
    Broken("default is no choice", replaced(PY, 'default="light"', 'default="grey"'),
           "INPUT_DEFAULT_INVALID", PY, "'grey' of tone is not one of its choices"),
    Broken("default None of no optional type", replaced(PY, "default=2, ge=1, le=4", "default=None"),
           "INPUT_DEFAULT_NOT_OPTIONAL", PY, "scale is None"),
    Broken("Literal type", both(replaced(PY, "tone: str", 'tone: Literal["light", "dark"]'),
                                replaced(PY, "from cog", "from typing import Literal\n\nfrom cog")),
           "INPUT_LITERAL_TYPE", PY, "tone has a Literal type"),
    Broken("input without type", replaced(PY, "tone: str", "tone"), "INPUT_UNTYPED", PY, "tone has no type"),
    Broken("returns text", replaced(PY, ") -> Path:", ") -> str:"), "OUTPUT_NOT_A_FILE", PY, "returns str"),
    Broken("run and predict", replaced(PY, RETURN, RETURN + "\n    def run(self) -> Path:\n        return Path()\n"),
           "PREDICT_METHOD", PY, "defines 2"),
    Broken("class renamed", replaced(PY, "class Predictor", "class Model"), "PREDICTOR_CLASS_MISSING", PY, "Predictor"),
    Broken("file renamed", removed(PY), "PREDICTOR_FILE_MISSING", PY, "does not exist"),
    Broken("syntax error", replaced(PY, "class Predictor(", "class Predictor(("), "PREDICTOR_UNREADABLE", PY, "Python"),
]  # fmt: skip

WRONG_CONFIG = [
    Broken("no cog.yaml", removed(YAML), "CONFIG_MISSING", YAML, "no cog.yaml"),
    Broken("no YAML", written(YAML, "build: ["), "CONFIG_UNREADABLE", YAML, "no valid YAML"),
    Broken("unknown key", written(YAML, (CLEAN / YAML).read_text() + "tests: []\n"),
           "CONFIG_KEY_UNKNOWN", YAML, "'tests'"),
    Broken("unknown build key", replaced(YAML, "  gpu: true", "  gpu: true\n  fast: true"),
           "CONFIG_KEY_UNKNOWN", YAML, "'build.fast'"),
    Broken("no Python version", replaced(YAML, '  python_version: "3.12"\n', ""),
           "PYTHON_VERSION_MISSING", YAML, "python_version"),
    Broken("Python version is a number", replaced(YAML, '"3.12"', "3.10"), "PYTHON_VERSION_UNQUOTED", YAML, "3.1"),
    Broken("Python too old", replaced(YAML, '"3.12"', '"3.8"'), "PYTHON_VERSION_UNKNOWN", YAML, "3.8"),
    Broken("SDK not pinned", replaced(YAML, '  sdk_version: "0.23.1"\n', ""), "SDK_VERSION_NOT_PINNED", YAML, "newest"),
    Broken("torch not in the matrix", both(replaced(YAML, '  cuda: "12.8"\n', ""), replaced(PINS, "2.11.0", "2.13.0")),
           "CUDA_NOT_SET", YAML, "torch 2.13.0"),
    Broken("CUDA that torch has no build for", replaced(YAML, '"12.8"', '"12.4"'), "CUDA_NOT_BUILT", YAML, "CUDA 12.4"),
    Broken("refused variable", replaced(YAML, "TORCH_HOME", "CUDA_VISIBLE_DEVICES"),
           "ENVIRONMENT_REFUSED", YAML, "CUDA_VISIBLE_DEVICES"),
    Broken("space in a variable", replaced(YAML, "=/src/weights", "=/src/my weights"),
           "ENVIRONMENT_MALFORMED", YAML, "TORCH_HOME holds a space"),
    Broken("run beside predict", replaced(YAML, "predict:", 'run: "predict.py:Predictor"\npredict:'),
           "PREDICTOR_NOT_NAMED", YAML, "once"),
    Broken("requirements missing", removed(PINS), "REQUIREMENTS_MISSING", YAML, "requirements.txt"),
]  # fmt: skip

WRONG_FILES = [
    Broken("requirement not pinned", replaced(PINS, "pillow==13.0.0", "pillow>=13"),
           "REQUIREMENT_NOT_PINNED", PINS, "pillow is not pinned"),
    Broken("requirement from git", replaced(PINS, "pillow==13.0.0", "-e git+https://example.com/pillow"),
           "REQUIREMENT_NOT_PINNED", PINS, "pins nothing"),
    Broken("requirement that Cog strips", replaced(PINS, "pillow==13.0.0", "pillow==13.0.0\ncog==0.23.1"),
           "REQUIREMENT_STRIPPED", PINS, "strips cog"),
    Broken("secret by its name", both(LET_IN, written("extra/.env", "A=1")), "SECRET_IN_IMAGE", "extra/.env", "secret"),
    Broken("secret by its content", both(LET_IN, written("extra/notes.txt", f"token: r8_{'a' * 37}")),
           "SECRET_IN_IMAGE", "extra/notes.txt", "secret"),
    Broken("large file", both(LET_IN, written("extra/video.mp4", "x" * 20_000_001)),
           "FILE_TOO_LARGE", "extra/video.mp4", "20 MB"),
    Broken("weights missing", removed("weights/grey.pth"), "WEIGHTS_MISSING", "weights/grey.pth", "not in"),
    Broken("weights changed", written("weights/grey.pth", "chockpoint\n"),
           "WEIGHTS_CORRUPT", "weights/grey.pth", "sha256"),
    Broken("weights nobody listed", written("weights/other.pth", "x"),
           "WEIGHTS_UNLISTED", "weights/other.pth", "manifest"),
    Broken("no .dockerignore", removed(".dockerignore"), "DOCKERIGNORE_MISSING", ".dockerignore", "everything"),
]  # fmt: skip

MISBEHAVES = [
    Broken("another size", replaced(PY, "picture.width * scale", "picture.width * 2 * scale"),
           "CASE_SIZE", "tests/cases/grey.toml", "64 x 32 pixels, and must have 32 x 32"),
    Broken("another picture", replaced(PY, "value * factor", "255 - value"),
           "CASE_SIMILARITY", "tests/cases/grey.toml", "SSIM"),
    Broken("a spoilt face", replaced(PY, ".save(output)", ".save(output)\n        spoil(output)"),
           "CASE_FACE_SIMILARITY", "tests/cases/grey.toml", "in the face"),
    Broken("another error", replaced(PY, "[NOT_A_PICTURE] ", ""),
           "CASE_ERROR", "tests/cases/grey.toml", "NOT_A_PICTURE"),
    Broken("success with nothing", replaced(PY, RETURN, "        return Path(self.place / 'none.png')\n"),
           "CASE_NO_PICTURE", "tests/cases/grey.toml", "no picture"),
    Broken("cases nobody can read", written("tests/cases/grey.toml", "[[case]]\nname = 'x'\n"),
           "CASES_UNREADABLE", "tests/cases", "x cannot be read"),
    Broken("setup fails", replaced(PY, "self.place = ", "raise OSError('no GPU')\n        self.place = "),
           "SERVER_FAILED", PY, "no GPU"),
    Broken("dies",
           replaced(PY, RETURN, f"        if picture.width < 9:\n            os.kill(os.getpid(), 9)\n{RETURN}"),
           "FUZZ_CRASH", PY, "died"),
    Broken("hangs", replaced(PY, RETURN, f"        while picture.width < 9:\n            time.sleep(0.1)\n{RETURN}"),
           "FUZZ_HANG", PY, "did not end"),
    Broken("tells a path", replaced(PY, RETURN, "        if picture.width < 9:\n"
                                    f"            raise ValueError(f'cannot write {{output}}')\n{RETURN}"),
           "FUZZ_PATH_LEAK", PY, "grey.png"),
    Broken("answers differently", replaced(PY, "factor = 1.0 if", "factor = random.random() if"),
           "FUZZ_NOT_DETERMINISTIC", PY, "answered differently"),
    Broken("a traceback for an error", replaced(PY, "[NOT_A_PICTURE] img", "[NOT_A_PICTURE]\\nimg"),
           "FUZZ_UNCLEAR_ERROR", PY, "failed with the error"),
]  # fmt: skip
