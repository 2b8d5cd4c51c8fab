"""Draw the picture of the README: a real chat with the demo model, typed and captured.

    python -m examples.chat_screen.capture        # writes chat.svg, prints the text

pexpect types at the command in a terminal of its own, pyte keeps the screen, rich
draws it. What the model answers is always the same; times and speeds are measured.
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
# Fonts of the reader's machine, none from the network.
FONTS = "ui-monospace, Menlo, DejaVu Sans Mono"
COLOURS = {"brown": "yellow", "brightblack": "bright_black"}  # as pyte names them


def main() -> None:
    """Hold the conversation and write both pictures of it."""
    screen = converse()
    (FOLDER / "chat.svg").write_text(as_svg(screen))
    sys.stdout.write(as_text(screen) + "\n")


def converse() -> pyte.Screen:
    """Type two questions, approve a call, and ask for a second one."""
    with tempfile.TemporaryDirectory() as home:
        screen, type_and_wait = start(Path(home))
        type_and_wait("", "Ctrl-D to leave")
        type_and_wait("What is 417 + 285?\r", "tok/s")
        type_and_wait("What is the weather in Oslo?\r", "Run my_get_weather?")
        type_and_wait("o", "sky is clear.\n\n>")
        type_and_wait("And in Bergen?\r", "Run my_get_weather?")
    return screen


def start(home: Path) -> tuple[pyte.Screen, Callable[[str, str], None]]:
    """Start the chat; return its screen, and how to type at it."""
    servers = {"my": {"command": sys.executable, "args": [server_file()]}}
    (home / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    options = ["--temperature", "0", "--mcp", str(home / "mcp.json")]
    child = pexpect.spawn(
        sys.executable,
        ["-m", "mlx_gptoss", "chat", "-m", "demo", *options],
        env={**os.environ, "HOME": str(home), "TERM": "xterm-256color"},  # pyright: ignore[reportArgumentType]
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
        """Read what comes; True if nothing did for a moment."""
        try:
            stream.feed(DIM.sub(_grey, child.read_nonblocking(65536, timeout=0.5)))
        except pexpect.TIMEOUT:
            return True
        return False

    return screen, type_and_wait


def server_file() -> str:
    return str(FOLDER / "weather_server.py")


def is_settling(screen: pyte.Screen) -> bool:
    """Whether a question stands there whose keys are dimmed: none answers it yet."""
    found = [(row, line.find("[o]nce")) for row, line in enumerate(screen.display)]
    return any(not screen.buffer[row][at].bold for row, at in found if at >= 0)


def as_text(screen: pyte.Screen) -> str:
    return "\n".join(line.rstrip() for line in screen.display).rstrip("\n")


def as_svg(screen: pyte.Screen) -> str:
    """Draw the screen with its colours."""
    rows = as_text(screen).count("\n") + 1
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    for row in range(rows):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        line = Text()
        for (colour, bold), run in groupby(cells, lambda cell: (cell.fg, cell.bold)):
            named = None if colour == "default" else COLOURS.get(colour, colour)
            text = "".join(cell.data for cell in run)
            line.append(text, Style(color=named, bold=bold))
        line.rstrip()
        console.print(line)
    drawn = console.export_svg(title="mlx-gptoss chat", unique_id="chat")
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE).replace("Fira Code", FONTS)


def _grey(found: re.Match[str]) -> str:
    """pyte knows no dimmed text: make it grey."""
    codes = ["90" if code == "2" else code for code in found[1].split(";")]
    return f"\x1b[{';'.join(codes)}m"


if __name__ == "__main__":
    main()
