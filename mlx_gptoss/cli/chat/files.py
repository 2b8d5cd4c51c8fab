"""Attach files to a message as text.

`@notes.txt` or `@"my notes.txt"` in a message attaches that file if it exists; other
words that begin with @ are left alone. Knows files and text only.
"""

import re
from pathlib import Path

from mlx_gptoss.errors import PromptError
from mlx_gptoss.memory import format_bytes

LARGEST = 2 * 2**20  # bytes: more than the longest context holds
NAMED = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
ENDINGS = ".,;:!?)]}'\""  # punctuation that may follow a name
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".heic", ".bmp", ".tiff", ".svgz"}
NO_PICTURES = (
    "gpt-oss reads text only and cannot see pictures: describe it, or give its text "
    "with /file"
)


def read_file(path: Path) -> str:
    """Return the text of a file. Raises PromptError with the reason if it cannot."""
    if path.suffix.lower() in PICTURES:
        raise PromptError(f"`{path}` is a picture: {NO_PICTURES}")
    try:
        if path.is_dir():
            raise PromptError(f"`{path}` is a folder: name a file in it")
        if not path.is_file():
            raise PromptError(f"`{path}` does not exist: check the name")
        size = path.stat().st_size
        if size > LARGEST:
            raise PromptError(
                f"`{path}` has {format_bytes(size)}, more than the "
                f"{format_bytes(LARGEST)} a message may take: give a part of it"
            )
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(f"`{path}` cannot be read: {error.strerror}") from error
    if b"\0" in data:
        raise PromptError(f"`{path}` is not text: it contains zero bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"`{path}` is not UTF-8 text (byte {error.start} cannot be read): convert "
            "it first, with `iconv` for one"
        ) from error


def with_file(message: str, name: str, text: str) -> str:
    """Append a file to a message, in a fence longer than any in its text."""
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{message}\n\n`{name}`:\n{fence}\n{text.rstrip()}\n{fence}".lstrip("\n")


def named_files(message: str) -> list[Path]:
    """Return the files that a message names with @, each once."""
    found = [
        path
        for quoted, bare in NAMED.findall(message)
        if (path := _existing(quoted) if quoted else _existing(bare)) is not None
    ]
    return list(dict.fromkeys(found))


def expand(message: str) -> str:
    """Append the files that a message names. Raises PromptError if one is unusable."""
    for path in named_files(message):
        message = with_file(message, str(path), read_file(path))
    return message


def _existing(name: str) -> Path | None:
    for candidate in (name, name.rstrip(ENDINGS)):
        path = Path(candidate).expanduser()
        try:
            if candidate and path.is_file():
                return path
        except (OSError, ValueError):  # not a valid file name
            continue
    return None
