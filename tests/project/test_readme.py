"""The README's programs are the examples, and print what it says they print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.chat_screen.capture import as_text, converse

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
MEASURED = re.compile(r"\d+\.\d (?:s|tok/s)|\d+ MB")  # times, speeds, memory
PROGRAMS = ("chat.py", "tool.py")
PAIR = re.compile(r"```python\n(.*?)```\n+```text\n(.*?)```", re.DOTALL)


def shown(number: int) -> tuple[str, str]:
    """A program of the README and the output it shows."""
    return PAIR.findall((ROOT / "README.md").read_text())[number]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_readme_is_an_example(number: int) -> None:
    source = (ROOT / "examples" / PROGRAMS[number]).read_text()

    assert shown(number)[0].strip() in source


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_an_example_prints_what_the_readme_shows(number: int) -> None:
    program = ROOT / "examples" / PROGRAMS[number]

    done = subprocess.run([sys.executable, program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == (shown(number)[1], "")


def test_the_chat_of_the_readme_is_one_that_was_held() -> None:
    """To update it and its picture: python -m examples.chat_screen.capture."""
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    held = as_text(converse())

    block = re.search(r"\$ .* --mcp \S+\n(.*?)```", README.read_text(), re.DOTALL)

    assert block is not None
    assert MEASURED.sub("#", block[1]) == MEASURED.sub("#", held + "\n")


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())

    assert [link for link in links if not (ROOT / link).exists()] == []
