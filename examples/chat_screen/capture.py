"""Capture real chats with the demo model: what README.md here and above show.

    python -m examples.chat_screen.capture        # writes chat.svg, prints both chats

pexpect types at the command in a terminal of its own, pyte keeps the screen, rich
draws it. The model's answers are always the same; times and speeds are measured.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from io import StringIO
from itertools import groupby
from pathlib import Path
from time import monotonic

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

FOLDER = Path(__file__).parent
COLUMNS, ROWS = 82, 30
SECONDS = 60.0
DIM = re.compile(r"\x1b\[([\d;]*)m")
# Fonts installed on the reader's machine; none from the network.
FONTS = "ui-monospace, Menlo, DejaVu Sans Mono"
# As pyte names them.
COLOURS = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")


def main() -> None:
    """Hold both conversations; draw the one with a tool."""
    screen = converse_with_tool()
    (FOLDER / "chat.svg").write_text(as_svg(screen))
    sys.stdout.write(as_text(converse()) + "\n\n" + as_text(screen) + "\n")


def converse() -> pyte.Screen:
    """Ask one question, as the first screen of the README does."""
    with tempfile.TemporaryDirectory() as home:
        screen, type_and_wait = start(Path(home), "--temperature", "0")
        type_and_wait("", "Ctrl-D to leave")
        type_and_wait("What is 417 + 285?\r", "tok/s")
    return screen


def converse_with_tool() -> pyte.Screen:
    """Type two questions, approve a call, and ask for a second one."""
    with tempfile.TemporaryDirectory() as home:
        servers = {"my": {"command": sys.executable, "args": [server_file()]}}
        config = Path(home) / "mcp.json"
        config.write_text(json.dumps({"mcpServers": servers}))
        options = ("--temperature", "0", "-m", "demo", "--mcp", str(config))
        screen, type_and_wait = start(Path(home), *options)
        type_and_wait("", "Ctrl-D to leave")
        type_and_wait("What is 417 + 285?\r", "tok/s")
        type_and_wait("What is the weather in Oslo?\r", "Run my_get_weather?")
        type_and_wait("o", "sky is clear.\n\n>")
        type_and_wait("And in Bergen?\r", "Run my_get_weather?")
    return screen


def start(home: Path, *options: str) -> tuple[pyte.Screen, Callable[[str, str], None]]:
    """Start the chat; return its screen, and a function that types at it and waits."""
    folders = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(home))
    env = {**os.environ, **folders, "TERM": "xterm-256color"}
    env.pop("MLX_GPTOSS_MODEL", None)  # the default model is the demo
    child = pexpect.spawn(
        sys.executable,
        ["-m", "mlx_gptoss", "chat", *options],
        env=env,  # pyright: ignore[reportArgumentType]
        encoding="utf-8",
        dimensions=(ROWS, COLUMNS),
    )
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)

    def type_and_wait(keys: str, what: str) -> None:
        child.send(keys)
        deadline = monotonic() + SECONDS
        while not at_rest() or what not in as_text(screen) or is_settling(screen):
            if monotonic() > deadline:
                raise SystemExit(f"no `{what}` on\n{as_text(screen)}")

    def at_rest() -> bool:
        """Feed new output to the screen; True if there was none for a moment."""
        try:
            stream.feed(grey(child.read_nonblocking(65536, timeout=0.5)))
        except pexpect.TIMEOUT:
            return True
        return False

    return screen, type_and_wait


def server_file() -> str:
    return str(FOLDER / "weather_server.py")


def is_settling(screen: pyte.Screen) -> bool:
    """Say whether a question is shown whose keys are still dimmed, so inactive."""
    found = [(row, line.find("[o]nce")) for row, line in enumerate(screen.display)]
    return any(not screen.buffer[row][at].bold for row, at in found if at >= 0)


def as_text(screen: pyte.Screen) -> str:
    return "\n".join(line.rstrip() for line in screen.display).rstrip("\n")


def as_svg(screen: pyte.Screen) -> str:
    """Draw the screen with its colours."""
    rows = as_text(screen).count("\n") + 1
    console = Console(
        record=True, width=screen.columns, file=StringIO(), force_terminal=True
    )
    for row in range(rows):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        line = Text()
        for (colour, bold), run in groupby(cells, lambda cell: (cell.fg, cell.bold)):
            named = None if colour == "default" else rich_name(colour)
            text = "".join(cell.data for cell in run)
            line.append(text, Style(color=named, bold=bold))
        line.rstrip()
        console.print(line)
    drawn = console.export_svg(title="mlx-gptoss chat", unique_id="chat")
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE).replace("Fira Code", FONTS)


def rich_name(colour: str) -> str:
    """Return rich's name of a colour that pyte names, or gives in hexadecimal."""
    bright, name = colour.startswith("bright"), colour.removeprefix("bright")
    if name not in COLOURS:
        return f"#{colour}"
    name = "yellow" if name == "brown" else name
    return f"bright_{name}" if bright else name


def grey(text: str) -> str:
    """Turn dimmed text, which pyte does not support, into grey."""

    def replaced(found: re.Match[str]) -> str:
        codes = ["90" if code == "2" else code for code in found[1].split(";")]
        return f"\x1b[{';'.join(codes)}m"

    return DIM.sub(replaced, text)


if __name__ == "__main__":
    main()
