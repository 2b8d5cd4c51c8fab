"""One name means one thing: no public class name is there twice.

Module docstrings say what a module does, in a sentence of its own.
"""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "mlx_gptoss", ROOT / "convert" / "mlx_gptoss_convert")
SHARED: dict[str, str] = {}  # names that may be there twice, each with the reason
MOST_SHARED = 10
NO_NAMES = ("What", "How", "Whose", "Who", "Which", "Where", "Why", "Those", "When")


def modules() -> dict[str, ast.Module]:
    files = sorted(file for folder in FOLDERS for file in folder.rglob("*.py"))
    return {str(f.relative_to(ROOT)): ast.parse(f.read_text()) for f in files}


def test_no_public_class_name_is_there_twice() -> None:
    places = defaultdict(list)
    for path, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    twice = {name: paths for name, paths in places.items() if len(paths) > 1}

    assert {name: twice[name] for name in twice if name not in SHARED} == {}
    assert set(SHARED) <= set(twice)
    assert len(SHARED) <= MOST_SHARED


def test_every_module_says_in_a_sentence_what_it_does() -> None:
    docs = {path: ast.get_docstring(tree) or "" for path, tree in modules().items()}

    assert [path for path, doc in docs.items() if doc.split(" ")[0] in NO_NAMES] == []
    assert [path for path, doc in docs.items() if not doc] == []
