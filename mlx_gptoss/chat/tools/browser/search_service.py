"""Use a search service as the browser's backend: one configured HTTP endpoint.

    {"search": "http://127.0.0.1:8888/search?format=json&q={query}",
     "open": "http://127.0.0.1:3000/{address}",
     "headers": {"Authorization": "Bearer ${KEY}"}}

`search` returns JSON: `results`, a list of objects with `title`, `url` and one of
`content`, `text`, `snippet`, `description`, `summary` (like SearXNG). `open`, if given,
returns a page: HTML, text, or JSON with `title` and a text; without it, a result opens
as the text that the search returned. No other address is ever requested.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import Request, urlopen

from mlx_gptoss.chat.tools.browser.formats import page_from_html
from mlx_gptoss.chat.tools.browser.pages import BRACKET_TRANSLATION, Page, PageLinks
from mlx_gptoss.chat.tools.variables import expand_variables
from mlx_gptoss.errors import ToolError

TIMEOUT_SECONDS = 20.0
MAX_RESPONSE_BYTES = 4 << 20
TEXT_KEYS = ("text", "content", "markdown", "snippet", "description", "summary")
CONFIG_KEYS = {"search", "open", "headers"}
SNIPPET_CHARACTERS = 300  # of a result in the list


@dataclass(frozen=True)
class SearchService:
    """The URLs to search and to open with; raises ToolError for invalid ones."""

    search_url: str
    open_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    _known: dict[str, Page] = field(default_factory=dict, init=False)

    source = "web"

    def __post_init__(self) -> None:
        _check_url(self.search_url, "{query}")
        if self.open_url is not None:
            _check_url(self.open_url, "{address}")

    @classmethod
    def read(cls, path: str | Path) -> "SearchService":
        """Read a configuration file; raises ToolError if it is invalid."""
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ToolError(f"the browser cannot read `{path}`: {error}") from error
        if (
            not isinstance(given, dict)
            or "search" not in given
            or set(given) - CONFIG_KEYS
        ):
            raise ToolError(
                f"`{path}` needs `search`, and may only have `open` and `headers` "
                "beside it"
            )
        given = expand_variables(given, f"`{path}`")
        return cls(given["search"], given.get("open"), given.get("headers") or {})

    def search(self, query: str, count: int) -> Page:
        """List the results of a search."""
        answer, _ = self._get(self.search_url.replace("{query}", quote(query, safe="")))
        try:
            results = _results(json.loads(answer))[:count]
        except ValueError as error:
            raise ToolError(f"the search service answered: {error}") from error
        links = PageLinks()
        lines: list[str] = []
        for title, address, text in results:
            self._known[address] = Page(address, title, text)
            shown = " ".join(text.split())[:SNIPPET_CHARACTERS]
            lines.append(f"  * {links.mark(title or address, address)} {shown}")
        text = "\n".join(["# Search Results", "", *(lines or ["Nothing was found."])])
        return Page("", query, text.strip(), links.addresses, listing=True)

    def open(self, address: str, *, raw: bool = False) -> Page:
        """Open an address with the service, or the text that the search returned."""
        if self.open_url is None:
            if address not in self._known:
                raise ToolError(f"`{address}` is in no search result: search first")
            return self._known[address]
        url = self.open_url.replace("{address}", quote(address, safe=""))
        answer, headers = self._get(url)
        kind = headers.get_content_type()
        if kind == "application/json":
            title, _, text = _fields(_json_object(answer))
            return Page(address, title or address, text)
        if kind == "text/html" and not raw:
            return page_from_html(
                address, answer, lambda link: _web_link(address, link)
            )
        return Page(address, address, answer.translate(BRACKET_TRANSLATION))

    def _get(self, url: str) -> tuple[str, Message]:
        try:
            with urlopen(
                Request(url, headers=dict(self.headers)), timeout=TIMEOUT_SECONDS
            ) as r:
                charset = r.headers.get_content_charset() or "utf-8"
                return r.read(MAX_RESPONSE_BYTES).decode(charset, "replace"), r.headers
        except (URLError, OSError, ValueError, LookupError) as error:
            host = urlsplit(url).netloc
            raise ToolError(f"the service at `{host}` failed: {error}") from error


def _results(answer: Any) -> list[tuple[str, str, str]]:
    if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
        raise ValueError("there is no list `results`")
    fields = [_fields(one) for one in answer["results"] if isinstance(one, dict)]
    return [one for one in fields if one[1]]


def _fields(given: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the title, address and text of a result or page."""
    texts = [given[key] for key in TEXT_KEYS if isinstance(given.get(key), str)]
    text = next((one for one in texts if one.strip()), "")
    plain = [str(given.get(key) or "") for key in ("title", "url")]
    return (
        plain[0].translate(BRACKET_TRANSLATION),
        plain[1],
        text.translate(BRACKET_TRANSLATION),
    )


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ToolError(f"the service did not answer with JSON: {error}") from error
    return value if isinstance(value, dict) else {"text": text}


def _web_link(address: str, link: str) -> str | None:
    if not link or link.startswith("#"):
        return None
    try:
        goal = urljoin(address, link)
    except ValueError:
        return None
    return goal if urlsplit(goal).scheme in ("http", "https") else None


def _check_url(url: Any, needed: str) -> None:
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
        raise ToolError(f"the browser needs an HTTP address, not `{url}`")
    if needed not in url:
        raise ToolError(f"`{url}` needs `{needed}` in it")
