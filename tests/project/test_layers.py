"""The rooms of the package, from the ground up, and what each may import.

A room imports only rooms above it in this list, never one beside or below. README.md
shows the same list. Imports are read from the source by `ast`.
"""

import ast
import subprocess
import sys
from pathlib import Path

from mlx_gptoss import __version__

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mlx_gptoss"

ROOMS = (
    "errors",
    "files",
    "format",
    "model",
    "memory",
    "checkpoint",
    "harmony",
    "engine",
    "chat",
    "api",
    "workloads",
    "server",
    "diagnostics",
    "cli",
)
DOORS = ("__init__", "__main__")  # lazy re-exports, and the command
WITHOUT_MLX = (  # what is imported before MLX, or by programs that never start it
    "errors",
    "files",
    "format/config",
    "format/layout",
    "model/blas_library",
    "checkpoint/tokenizer",
    "harmony",
    "api",
)
DESCRIBES_MACHINES = {"memory", "diagnostics"}
HTTP_LIBRARIES = {"fastapi", "starlette", "uvicorn"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return every module that a file imports, at its top or inside a function."""
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


def may_import(importer: str, name: str) -> bool:
    """Say whether a module of the room `importer` may import the module `name`."""
    package, *rest = name.split(".")
    if package == "mlx_gptoss_convert":
        return False  # the converter stands on the package, never the reverse
    if package != "mlx_gptoss" or not rest or rest[0] not in ROOMS:
        return True
    return ROOMS.index(rest[0]) <= ROOMS.index(importer)


def test_a_room_imports_only_rooms_below_it() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if room(path) not in DOORS
        for name in imports(path)
        if not may_import(room(path), name)
    ]
    assert wrong == []


def test_every_file_of_the_package_is_in_a_room() -> None:
    data = {"demo", "py.typed"}  # the demo checkpoint and a README; the PEP 561 marker
    places = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert places - {"__pycache__"} == {*ROOMS, *DOORS, *data}


def test_what_must_not_start_mlx_does_not_import_it() -> None:
    starters = [
        str(path.relative_to(PACKAGE))
        for path in modules()
        if path.relative_to(PACKAGE).with_suffix("").as_posix().startswith(WITHOUT_MLX)
        and any(name.split(".")[0] == "mlx" for name in imports(path))
    ]
    assert starters == []


def test_what_clients_send_and_get_knows_no_http() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if room(path) == "api"
        for name in imports(path)
        if name.split(".")[0] in HTTP_LIBRARIES
    ]
    assert wrong == []


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "mlx_gptoss", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == (f"mlx-gptoss, version {__version__}\n", "")


def test_only_those_who_describe_the_machine_ask_for_metal() -> None:
    """Code that computes asks `on_gpu`: a user may choose the CPU of a Mac."""
    askers = [path for path in modules() if "metal.is_available" in path.read_text()]
    assert {room(path) for path in askers} == DESCRIBES_MACHINES
