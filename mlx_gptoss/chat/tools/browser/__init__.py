"""The built-in `browser` tool: search, open and find, as in training.

    browser = Browser(Folders("notes"))
    chat = Chat(runtime, tools=[browser])
    browser.citations("It rains 【0†L3-L5】.")      # -> [Citation(...)]

Every display has a number (its cursor), by which the model cites lines. Pages come from
a backend: `Folders`, the user's own files, or `SearchService`, an HTTP endpoint. A
Browser belongs to one Chat.

pages.py           a page as the model reads it; formats.py: from Markdown and HTML
folders.py         local files; file_search.py: search in them
search_service.py  a search service
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mlx_gptoss.chat.tools.browser.folders import Folders
from mlx_gptoss.chat.tools.browser.pages import (
    CONTEXT_LINES,
    Page,
    display,
    find_in_page,
)
from mlx_gptoss.chat.tools.browser.search_service import SearchService
from mlx_gptoss.chat.tools.tool import Tool
from mlx_gptoss.errors import ToolError
from mlx_gptoss.harmony.built_in_tools import BROWSER
from mlx_gptoss.harmony.messages import ToolDescription, ToolNamespace

__all__ = ["Browser", "Citation", "Folders", "Page", "SearchService"]

CITATION = re.compile(r"【(\d+)†L(\d+)(?:-L(\d+))?[^】]*】")
TRAINED_SOURCES = "sources=web (default: web)"
MAX_RESULTS = 20


class BrowserBackend(Protocol):
    """A source of pages. Methods raise ToolError with a text for the model."""

    @property
    def source(self) -> str: ...
    def search(self, query: str, count: int, /) -> Page: ...
    def open(self, address: str, /, *, raw: bool = False) -> Page: ...


@dataclass(frozen=True)
class Citation:
    """A citation: characters `start` to `end` of an answer, and lines of a page."""

    start: int
    end: int
    address: str
    title: str
    first_line: int
    last_line: int


class Browser:
    """The `browser` tool: shows pages of a backend, and keeps them by cursor."""

    def __init__(self, backend: BrowserBackend) -> None:
        self._backend = backend
        self._shown: list[Page] = []

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools `browser.search`, `browser.open` and `browser.find`."""
        functions = {"search": self.search, "open": self.open, "find": self.find}
        own = browser_namespace(self._backend.source)
        return [
            Tool(
                ToolDescription(f"browser.{one.name}", one.description, one.parameters),
                functions[one.name],
                own,
            )
            for one in own.tools
        ]

    def reset(self) -> None:
        """Forget the pages that were shown."""
        self._shown.clear()

    def search(self, query: str, topn: float = 10, **others: Any) -> str:
        """Search, and show the list of results."""
        count = min(max(int(topn), 1), MAX_RESULTS)
        return self._show(self._backend.search(query, count))

    def open(
        self,
        id: float | str = -1,
        cursor: float = -1,
        loc: float = -1,
        num_lines: float = -1,
        view_source: bool = False,
        **others: Any,
    ) -> str:
        """Open a link of a page, an address, or another position in a page."""
        line = 0
        if isinstance(id, str) and not id.isdecimal():
            page = self._backend.open(id, raw=view_source)
        elif int(id) >= 0:
            page, line = self._follow(int(id), int(cursor), raw=view_source)
        elif not self._shown:
            page = self._backend.open("", raw=view_source)
        else:
            page = self._page(int(cursor))
            if view_source:
                page = self._backend.open(page.address, raw=True)
        return self._show(page, int(loc) if loc >= 0 else line, int(num_lines))

    def find(self, pattern: str, cursor: float = -1, **others: Any) -> str:
        """List the matches of `pattern` in a page."""
        page = self._page(int(cursor))
        if page.listing:
            raise ToolError(
                "Cannot run `find` on search results page or find results page"
            )
        return self._show(find_in_page(page, pattern))

    def citations(self, answer: str) -> list[Citation]:
        """Parse the citations of an answer; those of no known page are left out."""
        found: list[Citation] = []
        for mark in CITATION.finditer(answer):
            cursor, first, last = (int(one or -1) for one in mark.groups())
            if cursor < len(self._shown):
                page = self._shown[cursor]
                last = max(first, last)
                place = (page.address, page.title, first, last)
                found.append(Citation(*mark.span(), *place))
        return found

    def _follow(self, link: int, cursor: int, *, raw: bool) -> tuple[Page, int]:
        """Open a link; return its page and the line it points to."""
        current = self._page(cursor)
        if link not in current.links:
            raise ToolError(f"Invalid link id `{link}`.")
        address = current.links[link]
        line = current.lines.get(link, 0)
        known = [one for one in self._shown if one.address == address]
        page = known[-1] if known and not raw else self._backend.open(address, raw=raw)
        return page, line - CONTEXT_LINES if line > CONTEXT_LINES else line

    def _page(self, cursor: int) -> Page:
        if not self._shown:
            raise ToolError("No pages to access!")
        if not -1 <= cursor < len(self._shown):
            raise ToolError(
                f"Cursor `{cursor}` is out of range. Available cursor indices: "
                f"[0 - {len(self._shown) - 1}]."
            )
        return self._shown[cursor]

    def _show(self, page: Page, line: int = 0, count: int = -1) -> str:
        try:
            text = display(page, len(self._shown), line, count)
        except IndexError as error:
            raise ToolError(str(error)) from error
        self._shown.append(page)
        return text


def browser_namespace(source: str) -> ToolNamespace:
    """Return the description from training, with another source."""
    text = BROWSER.description or ""
    assert TRAINED_SOURCES in text
    sources = f"sources={source} (default: {source})"
    return replace(BROWSER, description=text.replace(TRAINED_SOURCES, sources))
