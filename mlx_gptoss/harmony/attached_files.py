"""Files attached to a message as text, and found again in it.

    message = with_file("Review this", "notes.txt", text)
    split_files(message)                  # -> ("Review this", [("notes.txt", text)])

Knows text only.
"""

import re

ATTACHED = re.compile(
    r"\n\n`(?P<name>[^`\n]+)`:\n(?P<fence>`{3,})\n(?P<text>.*?)\n(?P=fence)\Z",
    re.DOTALL,
)
LINES_ONLY = re.compile(r"[`\r\n]")


def with_file(message: str, name: str, text: str) -> str:
    """Append a file to a message, in a fence longer than any in its text."""
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{message}\n\n`{name}`:\n{fence}\n{text.rstrip()}\n{fence}".lstrip("\n")


def split_files(message: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a message without the files at its end, and their names and texts."""
    text, files = "\n\n" + message, list[tuple[str, str]]()
    while (start := _last_file(text)) is not None:
        found = ATTACHED.match(text, start)
        assert found is not None
        files.insert(0, (found["name"], found["text"]))
        text = text[:start]
    return text[2:], files


def file_label(name: str) -> str:
    """Return a name that stands in one line of a message: no ticks, no line ends."""
    return LINES_ONLY.sub("_", name).strip() or "file"


def _last_file(text: str) -> int | None:
    """Return where the file begins that ends a text; the innermost fence decides."""
    closing = re.search(r"\n(`{3,})\Z", text)
    if closing is None:
        return None
    opening = f"\n{closing[1]}\n"
    at = text.rfind(opening, 0, closing.start() + 1)
    start = text.rfind("\n\n`", 0, at) if at >= 0 else -1
    return start if start >= 0 and ATTACHED.match(text, start) else None
