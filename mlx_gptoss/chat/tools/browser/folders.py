"""Local files and folders as pages, and a search in them; nothing else is reached.

An address is a path relative to a folder that was named (`notes/a.md`), the folder's
own name before it if there are several. What leads out of the folder, by `..` or by
a link, hidden names (`.git`, `.env`), names that are no text, and what is no file and
no folder (a pipe, a device) are not there.
"""

import errno
import math
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from mlx_gptoss.chat.tools.browser.formats import page_from_text
from mlx_gptoss.chat.tools.browser.pages import Page, PageLinks
from mlx_gptoss.errors import ToolError

MAX_FILE_BYTES = 1 << 20  # of a file; what is behind is not shown
MAX_SEARCHED_FILES = 2000  # that a search reads
MAX_LISTED_ENTRIES = 500  # of a folder that are listed
BINARY_SAMPLE = 1 << 13  # bytes in which a text has no NUL
NAME_WEIGHT = 3.0  # a word in a file's name counts as so many in its text
SNIPPET_CHARACTERS = 200  # characters
WORD = re.compile(r"\w+")
# Characters that stand in no name of ours: control characters, bytes that are no UTF-8.
NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Folders:
    """A backend of the browser: the files of the user, as far as they were named.

    Raises ToolError for a path that is not there.
    """

    source = "files"

    def __init__(self, *paths: str | Path) -> None:
        self._roots: dict[str, Path] = {}
        for path in paths:
            try:
                root = Path(path).expanduser().resolve(strict=True)
                readable = root.is_file() or root.is_dir()
            except ValueError as error:
                raise ToolError(f"the browser cannot read {str(path)!r}") from error
            except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
                why = error.strerror if isinstance(error, OSError) else "it never ends"
                raise ToolError(f"the browser cannot read `{path}`: {why}") from error
            if not readable:
                raise ToolError(f"the browser cannot read `{path}`: it is no file")
            alone = len(paths) == 1 and root.is_dir()
            self._roots["" if alone else _free_name(root.name, self._roots)] = root

    def open(self, address: str, *, raw: bool = False) -> Page:
        """Return a file or the list of a folder; `raw` shows HTML as it is written."""
        if "://" in address:
            raise ToolError(f"`{address}` is no file: only files can be opened here")
        address = posixpath.normpath(address) if address else ""
        address = "" if address == "." else address
        if not address and "" not in self._roots:
            return self._listing("", sorted(self._roots))
        path = self._path(address)
        if path.is_dir():
            entries = _list_folder(path, address)
            names = [n for n in entries if self._linked(f"{address}/", quote(n))]
            return self._listing(address, names)
        text = _read_text(path, address)
        if raw:
            return Page(address, address.rpartition("/")[2], text)
        return page_from_text(address, text, lambda link: self._linked(address, link))

    def search(self, query: str, count: int) -> Page:
        """List the files that have the words of `query`, the best first."""
        words = set(WORD.findall(query.lower()))
        texts = [SearchedFile(address, text) for address, text in self._texts()]
        found = [(one.score(words, texts), one) for one in texts]
        best = sorted(found, key=lambda pair: (-pair[0], pair[1].address))[:count]
        links = PageLinks()
        lines = [
            f"  * {links.mark(one.address, one.address)} {one.snippet(words)}"
            for score, one in best
            if score > 0
        ]
        if not lines:
            lines = [f"No file has a word of `{query}`."]
        text = "\n".join(["# Search Results", "", *lines])
        return Page("", query, text, links.addresses, listing=True)

    def _path(self, address: str) -> Path:
        """Where an address lies; raises ToolError if that is not ours to show."""
        parts = PurePosixPath(address).parts
        if address.startswith("/") or ".." in parts or "\0" in address:
            raise ToolError(f"`{address}` is outside the folders that may be read")
        name, rest = ("", parts) if "" in self._roots else (parts[0], parts[1:])
        root = self._roots.get(name)
        try:
            if root is None or any(part.startswith(".") for part in rest):
                raise FileNotFoundError
            path = root.joinpath(*rest).resolve(strict=True)
            is_page = path.is_file() or path.is_dir()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise ToolError(f"there is no `{address}`") from error
        except UnicodeEncodeError as error:  # half of a pair, which JSON can spell
            raise ToolError("there is no file of a name that is no text") from error
        if not path.is_relative_to(root):
            raise ToolError(f"`{address}` is outside the folders that may be read")
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or not is_page:
            raise ToolError(f"there is no `{address}`")
        return path

    def _linked(self, address: str, link: str) -> str | None:
        """The address a link of a page means, if it is a file of ours."""
        parsed = urlsplit(link) if not link.startswith("//") else None
        if parsed is None or parsed.scheme or not parsed.path:
            return None
        folder = posixpath.dirname(address).strip("/")
        beside = posixpath.join(folder, unquote(parsed.path))
        goal = posixpath.normpath(beside)
        try:
            self._path(goal)
        except ToolError:
            return None
        return goal

    def _listing(self, address: str, names: Sequence[str]) -> Page:
        links = PageLinks()
        shown = [
            f"  * {links.mark(name, posixpath.join(address, name.rstrip('/')))}"
            for name in names[:MAX_LISTED_ENTRIES]
        ]
        if len(names) > MAX_LISTED_ENTRIES:
            shown.append(f"and {len(names) - MAX_LISTED_ENTRIES} more")
        text = "\n".join(shown) or "(empty)"
        return Page(address, address or "Files", text, links.addresses)

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Every text below the roots with its address, up to MOST_FILES."""
        left = MAX_SEARCHED_FILES
        for name, root in self._roots.items():
            for path in _walk(root):
                inside = "" if path == root else path.relative_to(root).as_posix()
                address = posixpath.join(name, inside) if inside else name
                try:
                    text = _read_text(self._path(address), address)
                except ToolError:
                    continue  # not text, or a link out
                yield address, text
                left -= 1
                if left == 0:
                    return


@dataclass(frozen=True)
class SearchedFile:
    """A text that is searched."""

    address: str
    text: str

    def score(self, words: set[str], all_texts: Sequence["SearchedFile"]) -> float:
        """How well it fits: words that few texts have count more (tf-idf)."""
        total = 0.0
        for word in words:
            times = self.counts[word] + NAME_WEIGHT * (word in self.address.lower())
            if times:
                having = sum(1 for one in all_texts if word in one.counts) or 1
                rare = math.log(1 + len(all_texts) / having)
                total += (1 + math.log(times)) * rare
        return total

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(WORD.findall(self.text.lower()))

    def snippet(self, words: set[str]) -> str:
        """The line with most of the words."""
        lines = [" ".join(line.split()) for line in self.text.split("\n")]
        line = max(lines, key=lambda one: len(words & set(WORD.findall(one.lower()))))
        return (
            line if len(line) <= SNIPPET_CHARACTERS else line[:SNIPPET_CHARACTERS] + "…"
        )


def _free_name(name: str, taken: dict[str, Path]) -> str:
    name = "files" if not name or NOT_TEXT.search(name) else name
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return next(one for one in [name, *numbered] if one not in taken)


def _list_folder(folder: Path, address: str) -> list[str]:
    """The names in a folder, folders with a slash and first; no hidden ones."""
    try:
        with os.scandir(folder) as found:
            names = [(not _is_folder(one), one.name) for one in found]
    except OSError as error:
        raise ToolError(f"`{address}` cannot be read: {error.strerror}") from error
    shown = sorted(pair for pair in names if _is_shown(pair[1]))
    return [name if is_file else name + "/" for is_file, name in shown]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle, or it is no longer there
        return False


def _is_shown(name: str) -> bool:
    """Whether a name is text and not hidden."""
    return not name.startswith(".") and NOT_TEXT.search(name) is None


def _walk(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if _is_shown(one))
        yield from (Path(folder, name) for name in sorted(files) if _is_shown(name))


def _read_text(path: Path, address: str) -> str:
    """The text of a file, as far as it is shown; raises ToolError if it is none."""
    try:
        with open(path, "rb", opener=_open_file) as file:
            data = file.read(MAX_FILE_BYTES) or b""  # None: there would be more, later
    except OSError as error:
        raise ToolError(f"`{address}` cannot be read: {error.strerror}") from error
    if b"\0" in data[:BINARY_SAMPLE]:
        raise ToolError(f"`{address}` is not a text")
    return data.decode("utf-8", "replace")


def _open_file(path: str, flags: int) -> int:
    """Open a file, and nothing else that came in its place: a pipe might never end."""
    found = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(found).st_mode):
        return found
    os.close(found)
    raise OSError(errno.EINVAL, "it is no file")
