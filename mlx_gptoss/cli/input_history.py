"""The history of typed lines, stored beside the chats in prompt_toolkit's format.

Lines that begin with `+` are text; all others end an entry.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from mlx_gptoss.files import data_folder, write

FILE = "history"
MARK = "+"


def history_file() -> Path:
    """Return the history file, whether or not it exists."""
    return data_folder() / FILE


def forget(questions: Collection[str] | None = None) -> None:
    """Remove the lines of deleted questions, or everything if None."""
    path = history_file()
    if not path.exists():
        return
    if questions is None:
        path.unlink()
        return
    text = path.read_text("utf-8", "replace")
    deleted = "\n".join(questions)  # one search per line, however many there are
    kept = [block for block, typed in _blocks(text) if typed.strip() not in deleted]
    write(path, "".join(kept))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield each entry as stored, with its timestamp, and the text typed."""
    block, typed = "", ""
    for line in text.splitlines(keepends=True):
        if typed and not line.startswith(MARK):
            yield block, typed
            block, typed = "", ""
        block += line
        if line.startswith(MARK):
            typed += line.removeprefix(MARK)
    if typed:
        yield block, typed
