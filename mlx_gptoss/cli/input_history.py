"""What was typed at a prompt, kept beside the chats in the form of prompt_toolkit.

Lines that begin with `+` are text, all others end it.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from mlx_gptoss.files import data_folder, write

FILE = "history"
MARK = "+"


def history_file() -> Path:
    """Return where the user's typed lines are kept, there or not yet."""
    return data_folder() / FILE


def forget(questions: Collection[str] | None = None) -> None:
    """Take out what stands in deleted questions; without any given, everything."""
    path = history_file()
    if not path.exists():
        return
    if questions is None:
        path.unlink()
        return
    text = path.read_text("utf-8", "replace")
    deleted = "\n".join(questions)  # one search a line, however many there are
    kept = [block for block, typed in _blocks(text) if typed.strip() not in deleted]
    write(path, "".join(kept))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield each entry as it is written, its time before it, and what was typed."""
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
