"""The folders of the converter, from the ground up, and what each may import.

A module imports only from its own folder and from the folders above it in this list.
convert/README.md shows the same list.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONVERTER = ROOT / "convert" / "mlx_gptoss_convert"
README = ROOT / "convert" / "README.md"

FOLDERS = ("read", "steps", "plan", "write", "measure", "merge", "cli")


def imported_folders(path: Path) -> list[str]:
    """List the folders of the converter a file imports from, anywhere in the file."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
            if node.module == "mlx_gptoss_convert":
                names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = (name.split(".") for name in names)
    return [part[1] for part in parts if part[0] == "mlx_gptoss_convert" and part[1:]]


def test_a_folder_imports_only_folders_above_it_in_the_list() -> None:
    wrong = [
        f"{path.relative_to(CONVERTER)} imports {folder}"
        for path in sorted(CONVERTER.rglob("*.py"))
        if path.parent != CONVERTER
        for folder in imported_folders(path)
        if FOLDERS.index(folder) > FOLDERS.index(path.relative_to(CONVERTER).parts[0])
    ]
    assert wrong == []


def test_every_file_of_the_converter_is_in_a_folder() -> None:
    places = {path.name for path in CONVERTER.iterdir()} - {"__pycache__"}
    assert places == {*FOLDERS, "__init__.py", "py.typed"}


def test_the_readme_lists_the_folders_and_every_file_in_them() -> None:
    shown = re.findall(r"^    (\w+)/", README.read_text(), flags=re.M)
    assert tuple(shown) == FOLDERS
    tree = README.read_text().partition("## Code")[2]
    for folder in FOLDERS:
        section = tree.partition(f"    {folder}/")[2]
        section = re.split(r"^    \w+/", section, maxsplit=1, flags=re.M)[0]
        names = {path.stem for path in (CONVERTER / folder).glob("*.py")}
        listed = set(re.findall(r"^        (\w+)\.py ", section, flags=re.M))
        assert listed == names - {"__init__"}, folder
