"""Later cells have intact streams, and classes of cells belong to `__main__`."""

from collections.abc import Iterator

import pytest

from mlx_gptoss.chat.tools.notebook import Notebook, NotebookLimits
from tests.support.notebooks import MB, open_notebook


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with open_notebook(NotebookLimits(memory=512 * MB, drive_bytes=8 * MB)) as found:
        yield found


TAKEN = {  # a cell, and its output
    "closed": ("print('a', end=''); sys.stdout.close()", "a"),
    "none": ("sys.stdout = sys.stderr = None; print(1)", ""),
    "detached": ("sys.stdout.detach(); 3", "3\n"),
    "closed below": ("[os.close(n) for n in (0, 1, 2)]; 3", "3\n"),
    "a file of it": ("with open(1, 'w') as file: file.write('a')", "a"),
    "redirected": ("os.dup2(os.open('x', os.O_CREAT | os.O_RDWR), 1); print(1)", ""),
    "kept in memory": ("sys.stdout = io.StringIO(); print('a'); 3", "3\n"),
    "wrapped": ("sys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint('a')", "a\n"),
    "as it was": ("sys.stdout = sys.__stdout__\nprint('a')", "a\n"),
    "no stdin": ("sys.stdin.close()", ""),
}


@pytest.mark.parametrize("name", TAKEN)
def test_streams_that_a_cell_takes_away_are_there_in_the_next(
    notebook: Notebook, name: str
) -> None:
    code, shown = TAKEN[name]
    notebook.run("import io, os, sys\nkept = 1")
    said = notebook.run(code)
    assert said == shown or (not shown and said.startswith("[There was no output"))
    assert notebook.run("print('out'); print('err', file=sys.stderr)") == "out\nerr\n"
    assert notebook.run("input()").endswith("EOFError: EOF when reading a line\n")
    assert notebook.run("kept") == "1\n"


def test_a_traceback_is_shown_whatever_stdout_is_then(notebook: Notebook) -> None:
    said = notebook.run("import io, sys\nsys.stdout = io.StringIO()\n1 / 0")
    assert said.endswith("ZeroDivisionError: division by zero\n")


BROKEN = """
class Broken:
    def write(self, text): return len(text)
    def flush(self): raise OSError("full")
import sys; sys.stdout = Broken()
"""


def test_a_stream_that_cannot_be_flushed_is_the_cells_error(notebook: Notebook) -> None:
    assert notebook.run(BROKEN).endswith("OSError: full\n")
    assert notebook.run("1 + 1") == "2\n"


def test_what_a_logger_keeps_is_written_in_later_cells(notebook: Notebook) -> None:
    notebook.run("import logging\nlogging.basicConfig(force=True)")
    assert notebook.run("logging.warning('hi')") == "WARNING:root:hi\n"


NAMES = """\
from __future__ import annotations
class Point:
    x: int
point = Point()
point.x = 7
"""


def test_names_of_cells_are_those_of_the_main_module(notebook: Notebook) -> None:
    """Pickle, type hints, doctest and unittest look for them there."""
    notebook.run(NAMES)
    notebook.run("import pickle, sys, typing")
    assert notebook.run("pickle.loads(pickle.dumps(point)).x") == "7\n"
    assert notebook.run("typing.get_type_hints(Point)") == "{'x': <class 'int'>}\n"
    assert notebook.run("vars(sys.modules['__main__']) is globals()") == "True\n"
