"""NO_COLOR and TERM=dumb, for every command."""

import re
import sys
from pathlib import Path

import pytest

from tests.cli.test_chat_terminal import COLOUR
from tests.support.terminals import ROOT, Terminal

WRITES_CODES = re.compile(r"\\x1b|\\033|\\e\[|color=True|Console\(|secho|isatty\(\)")
KNOWN = {  # files that write control sequences or look for a terminal, and why
    "cli/chat/clipboard.py": "copies by the terminal, of a full-screen chat only",
    "cli/chat/keys.py": "the full-screen chat, which is not for dumb terminals",
    "cli/chat/layout.py": "rich, which knows NO_COLOR; full-screen chat",
    "cli/chat/live_tail.py": "full-screen chat",
    "cli/chat/markdown.py": "full-screen chat",
    "cli/chat/meant_model.py": "asks only a person",
    "cli/chat/plain.py": "asks only a person",
    "cli/chat/start.py": "chooses the plain chat for dumb terminals",
    "cli/classify.py": "asks only a person",
    "cli/colours.py": "the place where it is decided",
    "cli/generate.py": "warns a person who is to type the prompt",
    "cli/input_lines.py": "asks only a person",
    "cli/progress_line.py": "only if `redraws`",
    "cli/progress.py": "only if `redraws`; rich knows NO_COLOR",
    "cli/reading.py": "only if `redraws`",
    "cli/redact/documents.py": "asks only a person",
    "cli/streams.py": "buffering",
    "cli/terminal.py": "only if `coloured`",
    "cli/web_page.py": "opens a browser only for a person",
    "cli/progress.py of convert": "only if `redraws`; rich knows NO_COLOR",
}


def test_control_sequences_are_written_in_few_places() -> None:
    """A new place asks `cli/colours.py`, and is listed above."""
    found = {
        str(path.relative_to(package)) + name
        for package, name in (
            (ROOT / "mlx_gptoss", ""),
            (ROOT / "convert" / "mlx_gptoss_convert", " of convert"),
        )
        for path in (package / "cli").rglob("*.py")
        if WRITES_CODES.search(path.read_text())
    }
    assert found <= set(KNOWN), found - set(KNOWN)


@pytest.fixture
def conversation(tmp_path: Path) -> Path:
    file = tmp_path / "conversation.json"
    file.write_text('[{"role": "user", "content": "hi"}]')
    return file


def written(conversation: Path, **settings: str) -> str:
    """Return what `render` and `use` write to a terminal: colours, and a note."""
    program = (
        "import sys; from mlx_gptoss.cli import cli; "
        "cli(sys.argv[1:3], standalone_mode=False); cli(['use', 'demo'])"
    )
    command = [sys.executable, "-c", program, "render", str(conversation)]
    home = {"HOME": str(conversation.parent), "XDG_CONFIG_HOME": ""}
    with Terminal(command, settings=home | settings) as terminal:
        assert terminal.end() == 0
        return terminal.raw


def test_commands_colour_a_terminal_unless_they_may_not(conversation: Path) -> None:
    assert COLOUR.search(written(conversation))
    assert not COLOUR.search(written(conversation, NO_COLOR="1"))
    assert "\x1b" not in written(conversation, TERM="dumb")
