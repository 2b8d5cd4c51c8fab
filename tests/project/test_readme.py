"""The READMEs: their programs are the examples, their output is what one gets."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest

from examples.chat_screen.capture import as_text, converse, converse_with_tool
from tests.project.test_layers import ROOMS

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 150
MEASURED = re.compile(r"[\d.]+ (?:s|tok/s|MB)\b")  # times, speeds, memory
PROGRAMS = (("README.md", "chat.py"), ("examples/README.md", "tool.py"))
PAIR = re.compile(r"```python\n(.*?)```\n+```text\n(.*?)```", re.DOTALL)
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for folder in ("", "convert/", "docs/", "examples/**/", "mlx_gptoss/**/")
    for page in ROOT.glob(f"{folder}*.md")
)


def readme() -> str:
    return (ROOT / "README.md").read_text()


def shown(number: int) -> tuple[str, str]:
    """Return the program of a page and the output shown beneath it."""
    page, _ = PROGRAMS[number]
    return PAIR.findall((ROOT / page).read_text())[0]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_readme_is_an_example(number: int) -> None:
    source = (ROOT / "examples" / PROGRAMS[number][1]).read_text()

    assert shown(number)[0].strip() in source


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_an_example_prints_what_the_readme_shows(number: int) -> None:
    program = ROOT / "examples" / PROGRAMS[number][1]

    done = subprocess.run([sys.executable, program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == (shown(number)[1], "")


def check_captured(page: str, hold: Callable[[], pyte.Screen]) -> None:
    """Compare the chat on a page with one held now, but for times and sizes."""
    text = (ROOT / page).read_text()
    block = re.search(
        r"\$ [^\n]*chat [^\n]*--temperature 0[^\n]*\n(.*?)```", text, re.S
    )

    assert block is not None
    held = as_text(hold()) + "\n"
    assert MEASURED.sub("#", block[1]) == MEASURED.sub("#", held)


def test_the_chat_of_the_readme_is_one_that_was_held() -> None:
    """To update it: python -m examples.chat_screen.capture."""
    check_captured("README.md", converse)


def test_the_chat_with_a_tool_is_one_that_was_held() -> None:
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    check_captured("examples/chat_screen/README.md", converse_with_tool)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())

    assert [link for link in links if not (folder / link).exists()] == []


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert readme().count("\n") <= MOST_LINES


def test_the_tree_of_the_readme_lists_the_rooms_in_order() -> None:
    tree = re.search(r"```text\nmlx_gptoss/\n(.*?)^convert/", readme(), re.S | re.M)

    assert tree is not None
    rooms = re.findall(r"^  (\w+)(?:\.py|/) ", tree[1], re.MULTILINE)
    assert tuple(rooms) == (*ROOMS, "demo")
