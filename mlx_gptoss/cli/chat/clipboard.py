"""Copy text to the clipboard, through a system program or the terminal itself.

Over SSH only the terminal (OSC 52) can reach the user's clipboard. Many terminals
ignore long texts, so there is a limit.
"""

import base64
import os
import shutil
import subprocess
import sys
from typing import TextIO

from mlx_gptoss.errors import PromptError

PROGRAMS = (
    ("pbcopy", (), None),
    ("wl-copy", (), "WAYLAND_DISPLAY"),
    ("xclip", ("-selection", "clipboard"), "DISPLAY"),
    ("xsel", ("--clipboard", "--input"), "DISPLAY"),
)  # name, arguments, environment variable that must be set
SECONDS = 5
LONGEST = 74_994  # bytes that xterm and others accept by OSC 52


def copy(text: str, terminal: TextIO | None = None) -> str:
    """Copy `text` and return what copied it. Raises PromptError if nothing can."""
    remote = bool(os.environ.get("SSH_TTY"))
    for name, arguments, variable in () if remote else PROGRAMS:
        program = shutil.which(name)
        if program and (variable is None or os.environ.get(variable)):
            return _by_program(program, arguments, text)
    return _by_terminal(text, terminal or sys.stdout)


def _by_program(program: str, arguments: tuple[str, ...], text: str) -> str:
    name = os.path.basename(program)
    try:
        subprocess.run(
            [program, *arguments],
            input=text.encode(),
            stdout=subprocess.DEVNULL,  # a running program would hold it open
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise PromptError(f"`{name}` could not copy: {error}") from error
    return name


def _by_terminal(text: str, terminal: TextIO) -> str:
    data = base64.b64encode(text.encode()).decode()
    if not terminal.isatty() or len(data) > LONGEST:
        raise PromptError(
            "nothing here can copy this much: install wl-copy or xclip, or use /export"
        )
    sequence = f"\x1b]52;c;{data}\x07"
    if os.environ.get("TMUX"):  # tmux forwards wrapped sequences
        sequence = "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    terminal.write(sequence)
    terminal.flush()
    return "the terminal (OSC 52)"
