"""What is installed: the wheel's content, one version, and a start without MLX."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest

import mlx_gptoss

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "mlx_gptoss/diagnostics/bench/results/"  # stored measurements
PAGE_SOURCE = "mlx_gptoss/server/web/page/"  # what the page is built from
DEMO_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist and the wheel made from it, built without the network."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> set[str]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_the_whole_demo_model(wheel: set[str]) -> None:
    assert {f"mlx_gptoss/demo/{name}" for name in DEMO_FILES} <= wheel


def test_the_wheel_carries_every_file_of_both_packages(wheel: set[str]) -> None:
    packages = [ROOT / "mlx_gptoss", ROOT / "convert" / "mlx_gptoss_convert"]
    expected = {
        str(path.relative_to(package.parent))
        for package in packages
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    left_out = {name for name in expected if name.startswith((RESULTS, PAGE_SOURCE))}
    assert left_out and not left_out & wheel
    assert expected - left_out <= wheel


def test_the_wheel_marks_both_packages_as_typed(wheel: set[str]) -> None:
    assert {"mlx_gptoss/py.typed", "mlx_gptoss_convert/py.typed"} <= wheel


def test_the_wheel_carries_nothing_but_packages_and_metadata(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {
        "mlx_gptoss",
        "mlx_gptoss_convert",
        f"mlx_gptoss-{mlx_gptoss.__version__}.dist-info",
    }
    assert not [name for name in wheel if "__pycache__" in name]


def test_the_licence_is_in_the_wheel_and_in_its_metadata(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        info = f"mlx_gptoss-{mlx_gptoss.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licence == (ROOT / "LICENSE").read_text()


def test_the_sdist_can_run_its_own_tests(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= inside
    assert {"tests/project/test_packaging.py", "tests/project/test_layers.py"} <= inside


def test_the_version_is_written_in_one_place() -> None:
    assert version("mlx-gptoss") == mlx_gptoss.__version__
    written = [
        path
        for path in [ROOT / "pyproject.toml", *ROOT.glob("mlx_gptoss/**/*.py")]
        if re.search(rf'"{re.escape(mlx_gptoss.__version__)}"', path.read_text())
    ]
    assert written == [ROOT / "mlx_gptoss" / "__init__.py"]


HELP = "from mlx_gptoss.cli import cli; cli(['--help'], standalone_mode=False)"


@pytest.mark.parametrize("code", ["import mlx_gptoss", HELP], ids=["import", "help"])
def test_the_start_is_light(code: str) -> None:
    heavy = {"mlx", "mlx_lm", "transformers", "numpy", "huggingface_hub", "fastapi"}
    code += "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert heavy & set(done.stdout.splitlines()[-1].split()) == set()
