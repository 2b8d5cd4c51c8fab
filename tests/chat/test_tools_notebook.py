"""The notebook runs cells in one namespace, within limits of time and memory.

Tests of a running notebook are skipped, with the reason, where the system does not let
users create namespaces.
"""

import threading
from collections.abc import Iterator

import pytest

from mlx_gptoss.chat.tools.notebook import (
    Notebook,
    NotebookLimits,
)
from mlx_gptoss.chat.tools.notebook.cell_output import MAX_OUTPUT_BYTES
from mlx_gptoss.harmony.built_in_tools import PYTHON
from tests.support.notebooks import MB, SMALL, kernel_of, open_notebook


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with open_notebook(NotebookLimits(memory=512 * MB, drive_bytes=8 * MB)) as found:
        yield found


@pytest.fixture
def small() -> Iterator[Notebook]:
    with open_notebook(SMALL) as found:
        yield found


# A notebook


def test_cells_share_their_names(notebook: Notebook) -> None:
    assert notebook.run("x = 20\ndef double(n): return 2 * n").startswith("[There was")
    assert notebook.run("double(x) + 2") == "42\n"
    assert notebook.run("_ + 1") == "43\n"


def test_what_is_printed_and_the_last_value_are_shown(notebook: Notebook) -> None:
    code = "import sys\nprint('á')\nprint('b', file=sys.stderr)\n{'c': 1}"
    assert notebook.run(code) == "á\nb\n{'c': 1}\n"


def test_output_below_python_is_shown_too(notebook: Notebook) -> None:
    assert notebook.run("import os; os.write(1, b'low\\n')") == "low\n4\n"


def test_a_traceback_begins_in_the_cell(notebook: Notebook) -> None:
    text = notebook.run("def f():\n    return 1 / 0\nf()")
    lines = text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith(", line 3, in <module>") and "<cell" in lines[1]
    assert "    return 1 / 0" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("def", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("input()", "EOFError: EOF when reading a line"),
        ("class E(Exception):\n  def __str__(self): 1 / 0\nraise E", "ZeroDiv"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("'\\0'.join([])", "''"),
        ("\0", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_no_cell_ends_the_notebook(notebook: Notebook, code: str, last: str) -> None:
    notebook.run("kept = 'here'")
    said = notebook.run(code)
    assert last in said.splitlines()[-1] or "E: <exception str() failed>" in said
    assert notebook.run("kept") == "'here'\n"


def test_a_cell_may_wait_at_its_top(notebook: Notebook) -> None:
    assert notebook.run("import asyncio\nawait asyncio.sleep(0, 'done')") == "'done'\n"


def test_libraries_of_this_python_are_there(notebook: Notebook) -> None:
    assert notebook.run("import numpy; int(numpy.arange(5).sum())") == "10\n"


def test_endless_output_keeps_its_two_ends(notebook: Notebook) -> None:
    text = notebook.run("print('first')\nprint('y' * 1_000_000)\nprint('last')")
    assert text.startswith("first\nyyy") and text.endswith("yyy\nlast\n")
    assert "bytes left out" in text
    assert len(text) < MAX_OUTPUT_BYTES + 100


def test_files_are_kept_in_a_folder_of_their_own(notebook: Notebook) -> None:
    notebook.run("import os; open('a.txt', 'w').write('hello')")
    drive = notebook._sandbox.drive
    assert notebook.run(f"open({drive + '/a.txt'!r}).read()") == "'hello'\n"
    assert notebook.run("os.getcwd()") == f"{drive!r}\n"


def test_a_reset_forgets_names_and_files(small: Notebook) -> None:
    small.run("x = 1; open('a.txt', 'w').write('hello')")
    small.reset()
    assert "NameError" in small.run("x")
    assert "FileNotFoundError" in small.run("open('a.txt')")


def test_the_model_is_told_what_is_true(notebook: Notebook) -> None:
    [tool] = notebook.tools
    assert (tool.name, tool.recipient) == ("python", "python")
    assert tool.namespace is not None and PYTHON.description is not None
    told = tool.namespace.description or ""
    assert "time out after 120.0 seconds" in told
    assert f"The drive at '{notebook._sandbox.drive}' can" in told
    assert "Internet access for this session is disabled" in told
    assert told.startswith(PYTHON.description[:300])
    assert tool.run("'raw code, no JSON'") == "'raw code, no JSON'\n"


# Limits


def test_an_endless_loop_is_stopped_and_the_names_stay(small: Notebook) -> None:
    small.run("x = 5")
    said = small.run("print('begun')\nwhile True: pass")
    assert said.startswith("begun\nTraceback")
    assert said.endswith(
        "KeyboardInterrupt\n[the code ran longer than 1 s and was stopped; the "
        "variables are kept]\n"
    )
    assert small.run("x") == "5\n"


def test_code_that_will_not_stop_is_killed(small: Notebook) -> None:
    kernel = kernel_of(small)
    stubborn = (
        "import signal, time; signal.signal(2, signal.SIG_IGN)\n"
        "while True: time.sleep(1)"
    )
    said = small.run("x = 5\n" + stubborn)
    assert said == (
        "[the code ran longer than 1 s and was stopped; the notebook was restarted, "
        "its variables and files are gone]\n"
    )
    kernel.wait(10)
    assert "NameError" in small.run("x")


@pytest.mark.parametrize(
    "hog",
    [
        "hog = []\nwhile True: hog.append(bytearray(1 << 24))",
        "import mmap\nhog = mmap.mmap(-1, 1 << 28, flags=mmap.MAP_PRIVATE)\n"
        "while True: hog.write(bytes(1 << 20))",
    ],
    ids=["of Python", "mapped"],
)
def test_memory_is_limited(hog: str) -> None:
    with open_notebook(NotebookLimits(memory=96 * MB, drive_bytes=8 * MB)) as own:
        said = own.run(hog)
        refused = ("MemoryError", "OSError: [Errno 12] Cannot allocate memory")
        ended = "[the code took more than 101 MB of memory; the notebook was restarted"
        assert said.splitlines()[-1].startswith((*refused, ended))
        assert own.run("1 + 1") == "2\n"


def test_a_fork_bomb_does_not_start(small: Notebook) -> None:
    said = small.run("import os\nwhile True: os.fork()")
    assert said.splitlines()[-1].startswith("PermissionError")


def test_files_are_limited(small: Notebook) -> None:
    said = small.run("open('big', 'wb').write(bytes(1 << 24))")
    assert said.splitlines()[-1].startswith("OSError")


def test_a_process_that_ends_itself_is_replaced(small: Notebook) -> None:
    said = small.run("print('bye', flush=True)\nimport os; os._exit(1)")
    assert said.startswith("bye\n[the process ended; the notebook was restarted")
    assert small.run("1 + 1") == "2\n"


def test_a_process_that_is_killed_between_cells_is_replaced(small: Notebook) -> None:
    kernel_of(small).kill()
    assert "ended; the notebook was restarted" in small.run("1 + 1")
    assert small.run("1 + 1") == "2\n"


@pytest.mark.parametrize("reply", ["not JSON", '{"done": true}', "[]", "[" * 5000])
def test_a_reply_made_up_by_the_code_harms_nobody(small: Notebook, reply: str) -> None:
    forge = f"import os\nfor n in range(3, 256):\n try: os.write(n, b'{reply}\\n')\n"
    said = small.run(forge + " except OSError: pass")
    assert "the process broke its connection" in said
    assert small.run("1 + 1") == "2\n"


def test_a_cell_can_be_interrupted(notebook: Notebook) -> None:
    [tool] = notebook.tools
    given_up = iter([False])
    said = tool.run("while True: pass", cancelled=lambda: next(given_up, True))
    assert said == "Error: the call was interrupted"
    assert notebook.run("1 + 1") == "2\n"  # waits for the end of the other cell


def test_a_cell_that_waits_for_its_process_can_be_interrupted(
    notebook: Notebook,
) -> None:
    """While the kernel restarts, and while another cell runs."""
    answers: list[str] = []
    notebook.run("kept = 'here'")
    with notebook._lock:
        cell = threading.Thread(
            target=lambda: answers.append(notebook.run("kept = 'gone'"))
        )
        cell.start()
        while not notebook._calls:
            assert cell.is_alive()
        notebook.interrupt()
    cell.join()
    assert answers == ["[it was stopped before it began]\n"]
    assert notebook.run("kept") == "'here'\n"
