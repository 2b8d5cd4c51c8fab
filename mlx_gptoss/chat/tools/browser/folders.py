"""Serve local files and folders as pages, and search them; reaches nothing else.

An address is a path relative to a folder that the user named (`notes/a.md`), preceded
by the folder's name if there are several. Paths that leave the folder, by `..` or by a
link, hidden names (`.git`, `.env`), names that are not text, and anything but files and
folders (pipes, devices) do not exist here.
"""

import errno
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from mlx_gptoss.chat.tools.browser.file_search import best_files, words_of
from mlx_gptoss.chat.tools.browser.formats import page_from_text
from mlx_gptoss.chat.tools.browser.pages import Page, PageLinks
from mlx_gptoss.errors import ToolError

MAX_FILE_BYTES = 1 << 20  # of a file: the rest is not shown
MAX_SEARCHED_FILES = 2000  # read by a search
MAX_LISTED_ENTRIES = 500  # of a folder
BINARY_SAMPLE = 1 << 13  # bytes without a NUL in a text
# Characters of names that are not text: control characters, bytes that are not UTF-8.
NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Folders:
    """A backend of the browser: the files and folders that the user named.

    Raises ToolError for a path that does not exist.
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
            except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
                why = (
                    error.strerror
                    if isinstance(error, OSError)
                    else "it is a loop of links"
                )
                raise ToolError(f"the browser cannot read `{path}`: {why}") from error
            if not readable:
                raise ToolError(
                    f"the browser cannot read `{path}`: it is not a file or folder"
                )
            alone = len(paths) == 1 and root.is_dir()
            self._roots["" if alone else _free_name(root.name, self._roots)] = root

    def open(self, address: str, *, raw: bool = False) -> Page:
        """Return a file, or the list of a folder; with `raw`, HTML as its source."""
        if "://" in address:
            raise ToolError(f"`{address}` is not a file: only files can be opened here")
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
        """List the files with words of `query`, the best first."""
        words = words_of(query)
        links = PageLinks()
        lines = [
            f"  * {links.mark(file.address, file.address)} {file.snippet(words)}"
            for file in best_files(self._texts(), words)[:count]
        ]
        if not lines:
            lines = [f"No file has a word of `{query}`."]
        text = "\n".join(["# Search Results", "", *lines])
        return Page("", query, text, links.addresses, listing=True)

    def _path(self, address: str) -> Path:
        """Return the path of an address; raises ToolError if it may not be shown."""
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
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise ToolError(f"there is no `{address}`") from error
        except UnicodeEncodeError as error:  # a lone surrogate, which JSON can express
            raise ToolError("there is no file with a name that is not text") from error
        if not path.is_relative_to(root):
            raise ToolError(f"`{address}` is outside the folders that may be read")
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or not is_page:
            raise ToolError(f"there is no `{address}`")
        return path

    def _linked(self, address: str, link: str) -> str | None:
        """Return the address of a link in a page, if it is a file that may be shown."""
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
        """Yield the address and text of each file, up to MAX_SEARCHED_FILES."""
        left = MAX_SEARCHED_FILES
        for name, root in self._roots.items():
            for path in _walk(root):
                inside = "" if path == root else path.relative_to(root).as_posix()
                address = posixpath.join(name, inside) if inside else name
                try:
                    text = _read_text(self._path(address), address)
                except ToolError:
                    continue  # not text, or a link that leaves the folder
                yield address, text
                left -= 1
                if left == 0:
                    return


def _free_name(name: str, taken: dict[str, Path]) -> str:
    name = "files" if not name or NOT_TEXT.search(name) else name
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return next(one for one in [name, *numbered] if one not in taken)


def _list_folder(folder: Path, address: str) -> list[str]:
    """Return the names in a folder, folders first and with a slash; no hidden ones."""
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
    except OSError:  # a loop of links, or no longer there
        return False


def _is_shown(name: str) -> bool:
    """Return whether a name is text and not hidden."""
    return not name.startswith(".") and NOT_TEXT.search(name) is None


def _walk(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if _is_shown(one))
        yield from (Path(folder, name) for name in sorted(files) if _is_shown(name))


def _read_text(path: Path, address: str) -> str:
    """Return the first MAX_FILE_BYTES of a text; raises ToolError for anything else."""
    try:
        with open(path, "rb", opener=_open_file) as file:
            data = file.read(MAX_FILE_BYTES) or b""  # None: nothing to read yet
    except OSError as error:
        raise ToolError(f"`{address}` cannot be read: {error.strerror}") from error
    if b"\0" in data[:BINARY_SAMPLE]:
        raise ToolError(f"`{address}` is not a text")
    return data.decode("utf-8", "replace")


def _open_file(path: str, flags: int) -> int:
    """Open a regular file, and nothing that replaced it: a pipe might never end."""
    found = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(found).st_mode):
        return found
    os.close(found)
    raise OSError(errno.EINVAL, "it is not a regular file")
