"""A program in a real terminal: typed at by pexpect, its screen kept by pyte.

    with Terminal([sys.executable, "-m", "mlx_gptoss", "chat"]) as terminal:
        terminal.wait_for("> ")
        terminal.send("hello\r")

`screen` is what a person sees now, `scrolled` what went off the top before it.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Self

import pexpect
import pyte

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds: machines that run tests are slow
PIECE = 1024  # characters
QUIET = 0.3  # seconds without output after which a screen is at rest


class Terminal:
    """A program and the screen it draws on."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        rows: int = 24,
        settings: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        rewrite: Callable[[str], str] = str,
    ) -> None:
        environment = {**os.environ, "TERM": "xterm-256color", **(settings or {})}
        environment.setdefault("PYTHONPATH", str(ROOT))
        self.raw = ""  # all it wrote
        self._rewrite = rewrite  # of it, for a screen that lacks something
        self.vt = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.1)
        self._stream = pyte.Stream(self.vt)
        self.child = pexpect.spawn(
            command[0],
            list(command[1:]),
            cwd=str(cwd),
            env=environment,  # pyright: ignore[reportArgumentType]
            encoding="utf-8",
            codec_errors="replace",
            dimensions=(rows, columns),
        )
        self.child.delaybeforesend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)

    @property
    def screen(self) -> str:
        """What stands on the screen, without blanks at the ends."""
        return "\n".join(line.rstrip() for line in self.vt.display).rstrip("\n")

    @property
    def scrolled(self) -> str:
        """What went off the top of the screen, oldest first."""
        lines = (
            "".join(row[x].data for x in range(self.vt.columns)).rstrip()
            for row in self.vt.history.top
        )
        return "\n".join(lines)

    @property
    def everything(self) -> str:
        return f"{self.scrolled}\n{self.screen}".lstrip("\n")

    def send(self, keys: str) -> None:
        self.child.send(keys)

    def paste(self, text: str) -> None:
        """Send a text as terminals paste it, while reading what is written meanwhile.

        A terminal takes few bytes that nobody has read, in either direction.
        """
        pasted = f"\x1b[200~{text}\x1b[201~".replace("\n", "\r")
        for start in range(0, len(pasted), PIECE):
            self.child.send(pasted[start : start + PIECE])
            self._read(0)

    def wait_for(self, what: str | Callable[[str], object]) -> str:
        """Read on until the screen has `what`; return the screen."""

        def seen() -> object:
            return what in self.screen if isinstance(what, str) else what(self.screen)

        return self._read_until(seen, f"{what!r}")

    def wait_for_output(self, text: str) -> str:
        """Read on until `text` was written, be it still on the screen or not."""
        return self._read_until(lambda: text in self.raw, f"{text!r} in the output")

    def wait_for_output_again(self, text: str, *, times: int) -> str:
        """Read on until `text` was written so many times from now on."""
        start = len(self.raw)

        def seen() -> bool:
            return self.raw.count(text, start) >= times

        return self._read_until(seen, f"{text!r} {times} times in the output")

    def settle(self) -> str:
        """Read on until nothing more comes for a moment; return the screen."""
        while self._read(QUIET):
            pass
        return self.screen

    def catch_up(self) -> str:
        """Read what was written up to now; return the screen."""
        while self._read(0.02):
            pass
        return self.screen

    def resize(self, columns: int, rows: int) -> None:
        """Give the program another size of screen."""
        self.vt.resize(rows, columns)
        self.child.setwinsize(rows, columns)
        self.child.kill(signal.SIGWINCH)

    def end(self) -> int | None:
        """Read to the end of the program; return its exit code."""
        deadline = monotonic() + PATIENCE
        while self.child.isalive() and monotonic() < deadline:
            self._read(0.1)
        while self._read(0):
            pass
        self.child.close()
        return self.child.exitstatus

    def _read_until(self, seen: Callable[[], object], what: str) -> str:
        deadline = monotonic() + PATIENCE
        while not seen():
            assert monotonic() < deadline, f"no {what} on\n{self.everything}"
            if not self._read(0.1) and not self.child.isalive():
                assert seen(), f"it ended with no {what} on\n{self.everything}"
        return self.screen

    def _read(self, seconds: float) -> bool:
        try:
            text = self.child.read_nonblocking(65536, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return False
        self.raw += text
        self._stream.feed(self._rewrite(text))
        return True
