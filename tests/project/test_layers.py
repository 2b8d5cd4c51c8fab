"""A module imports only its own floor or lower: read from the source by `ast`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_gptoss import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlx_gptoss"

FLOORS = {
    "errors": 0,
    "config": 0,
    "layout": 0,
    "blas": 0,
    "blas_library": 0,
    "owner": 0,
    "home": 0,
    "files": 0,
    "linear": 1,
    "hollow": 1,
    "floats": 1,
    "mxfp4": 1,
    "rope": 1,
    "attention": 1,
    "cache": 1,
    "sampling": 1,
    "experts": 2,
    "model": 2,
    "memory": 2,
    "wiring": 3,
    "hub": 3,
    "checkpoint": 3,
    "leftovers": 3,
    "cutting": 3,
    "tokenizer": 3,
    "harmony": 4,
    "interfaces": 4,
    "steps": 4,
    "endings": 4,
    "decoding": 4,
    "drawing": 4,
    "generate": 4,
    "prompt_cache": 4,
    "guide": 4,
    "stream": 4,
    "loading": 4,
    "planning": 4,
    "plot": 5,
    "probe": 4,
    "modes": 5,
    "tools": 5,
    "opening": 5,
    "runtime": 5,
    "batching": 5,
    "chat": 5,
    "sessions": 5,
    "reasoning_memory": 5,
    "overflow": 5,
    "listener": 5,
    "agents": 6,
    "bench": 6,
    "doctor": 6,
    "server": 6,
    "cli": 7,
}
TOP = {"__init__", "__main__", "demo"}  # lazy re-exports, the door, data


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
            if node.module == "mlx_gptoss":
                names += [f"mlx_gptoss.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_or_stay_on_the_floor(path: Path) -> None:
    if room(path) in TOP:
        return
    floor = FLOORS[room(path)]
    above = []
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mlx_gptoss" and len(parts) > 1 and parts[1] in FLOORS:
            if FLOORS[parts[1]] > floor:
                above.append(name)
        elif parts[0] == "mlx_gptoss_convert" and room(path) != "cli":
            above.append(name)
    assert above == []


def test_every_room_of_the_package_has_a_floor() -> None:
    rooms = {room(path) for path in modules()} - TOP
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_harmony_and_the_lowest_floor_do_not_start_mlx(path: Path) -> None:
    if room(path) in {
        "errors",
        "config",
        "layout",
        "blas_library",
        "harmony",
        "tokenizer",
    }:
        assert not [name for name in imports(path) if name.split(".")[0] == "mlx"]


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "mlx_gptoss", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == (f"mlx-gptoss, version {__version__}\n", "")


def test_only_those_who_describe_the_machine_ask_for_metal() -> None:
    """Code that computes asks `on_gpu`: a user may choose the CPU of a Mac."""
    askers = [path for path in modules() if "metal.is_available" in path.read_text()]
    assert {room(path) for path in askers} == {"memory", "doctor"}
