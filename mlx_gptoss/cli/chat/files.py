"""Attach files to a message as text.

`@notes.txt` or `@"my notes.txt"` in a message attaches that file. Names that are no
files are left in the message as they are, and are told apart: folders, and names of
files that do not exist. Knows files and text only.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.attached_files import with_file
from mlx_gptoss.memory import format_bytes

LARGEST = 2 * 2**20  # bytes: more than the longest context holds
NAMED = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
BARE_NAME = re.compile(r"[\w~./-]*\w[\w./-]*")  # of a file, not of a decorator's call
ENDINGS = ".,;:!?)]}'\""  # punctuation that may follow a name
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".heic", ".bmp", ".tiff", ".svgz"}
ATTACHED = "{} is attached already, and did not change"
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


def compose(
    text: str,
    attached: Sequence[tuple[str, str]],
    *,
    is_shown: Callable[[str], bool],
    count: Callable[[str], int],
) -> tuple[str, list[str]]:
    """Append the files that a message names, and those attached: names and texts.

    Also returns remarks: which files went along, which did not. `is_shown` says whether
    a file in its fence is in an earlier message, `count` its tokens. Raises PromptError
    for a file that is unusable.
    """
    named = named_files(text)
    message, remarks = text, named.remarks
    for path in named.files:
        file = str(path), read_file(path)
        if file in attached or is_shown(with_file("", *file)):
            remarks.append(ATTACHED.format(f"`{path}`"))
        else:
            message = with_file(message, *file)
            remarks.append(f"attached {path}, {count(file[1]):,} tokens")
    for file in attached:
        message = with_file(message, *file)
    return message, remarks


@dataclass(frozen=True)
class NamedFiles:
    """The files that a message names with @, each once, and the names that are none."""

    files: tuple[Path, ...] = ()
    folders: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """Say which names are no files."""
        lines = [f"`{name}` is a folder: name a file in it" for name in self.folders]
        if self.missing:
            names = ", ".join(f"`{name}`" for name in self.missing)
            lines.append(f"no such file: {names}; the text is sent as it is")
        return lines


def named_files(message: str) -> NamedFiles:
    """Find the names after @ in a message.

    In a text of several lines a name without a dot or a slash is taken for code, such
    as a decorator, if it is neither a file nor a folder.
    """
    files: dict[Path, None] = {}
    folders: dict[str, None] = {}
    missing: dict[str, None] = {}
    for quoted, bare in NAMED.findall(message):
        name, path = _named(quoted, bare)
        if path is not None and path.is_file():
            files[path] = None
        elif path is not None:
            folders[name] = None
        elif quoted or _is_meant(name, message):
            missing[name] = None
    return NamedFiles(tuple(files), tuple(folders), tuple(missing))


def _named(quoted: str, bare: str) -> tuple[str, Path | None]:
    """Return a name without the punctuation after it, and its path if it exists."""
    for candidate in (quoted,) if quoted else (bare, bare.rstrip(ENDINGS)):
        try:
            path = Path(candidate).expanduser()
            if candidate and (path.is_file() or path.is_dir()):
                return candidate, path
        except (OSError, ValueError, RuntimeError):  # not a valid name; `~nobody`
            continue
    return quoted or bare.rstrip(ENDINGS), None


def _is_meant(name: str, message: str) -> bool:
    """Say whether a name without a file was probably meant as one."""
    if not BARE_NAME.fullmatch(name):
        return False
    return "\n" not in message.strip() or "." in name or "/" in name
