"""The browser searches and opens pages with an HTTP service."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mlx_gptoss.chat.tools.browser import Browser, Folders, SearchService
from mlx_gptoss.errors import ToolError
from tests.support.notes_folder import write_notes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_notes(tmp_path)


@pytest.fixture
def browser(folder: Path) -> Browser:
    return Browser(Folders(folder))


# A search service


class FakeService(BaseHTTPRequestHandler):
    """Answers like SearXNG, and serves a page."""

    def do_GET(self) -> None:
        parsed = urlsplit(self.path)
        query = parse_qs(parsed.query)
        if parsed.path == "/search" and query.get("q") == ["ferry & oslo"]:
            result = {
                "title": "Oslo 【x】",
                "url": "https://o.example/",
                "content": "By sea.",
            }
            self._answer({"results": [result, {"title": "no url"}, 3]})
        elif parsed.path == "/search":
            self._answer({"wrong": []})
        elif self.headers.get("Authorization") != "Bearer hush":
            self.send_error(401)
        else:
            self._answer(f"<h1>{query['u'][0]}</h1><a href='/b'>more</a>")

    def _answer(self, answer: Any) -> None:
        is_page = isinstance(answer, str)
        body = (answer if is_page else json.dumps(answer)).encode()
        self.send_response(200)
        kind = "text/html; charset=utf-8" if is_page else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: pytest shows what matters."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeService) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_service_searches_and_opens(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_KEY", "hush")
    given = {
        "search": service + "/search?q={query}&format=json",
        "open": service + "/page?u={address}",
        "headers": {"Authorization": "Bearer ${SEARCH_KEY}"},
    }
    (tmp_path / "search.json").write_text(json.dumps(given))
    browser = Browser(SearchService.read(tmp_path / "search.json"))

    assert browser.search("ferry & oslo").endswith(
        "L0: # Search Results\nL1: \nL2:   * 【0†Oslo 〖x〗】 By sea."
    )
    assert browser.open(0).endswith("L0: # https://o.example/\nL1: \nL2: 【0†more】")
    assert browser._shown[1].links == {0: "https://o.example/b"}


def test_without_a_place_to_open_the_search_itself_is_shown(service: str) -> None:
    browser = Browser(SearchService(service + "/search?q={query}"))
    browser.search("ferry & oslo")
    assert browser.open(0).endswith("[0 - 0] of 0**\n\nL0: By sea.")
    with pytest.raises(ToolError, match="is in no search result: search first"):
        browser.open("https://elsewhere.example/")


def test_a_failing_service_is_told_to_the_model(service: str) -> None:
    browser = Browser(
        SearchService(service + "/search?q={query}", service + "/p?{address}")
    )
    with pytest.raises(ToolError, match="search service answered: there is no list"):
        browser.search("else")
    with pytest.raises(ToolError, match=r"service at `127.0.0.1:\d+` failed: .*401"):
        browser.open("https://o.example/")
    with pytest.raises(ToolError, match=r"service at `127\.0\.0\.1:1` failed"):
        SearchService("http://127.0.0.1:1/?{query}").search("x", 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[]", "needs `search`, and may only have `open` and `headers` beside it"),
        (
            '{"search": "http://x/{query}", "serach": 1}',
            "needs `search`, and may only have",
        ),
        ('{"search": "http://x/"}', "`http://x/` needs `{query}`"),
        ('{"search": "file:///{query}"}', "needs an HTTP address, not `file:///"),
        ('{"search": "http://x/{query}${NOT_SET_HERE}"}', "`NOT_SET_HERE` is not set"),
        ("{", "cannot read"),
    ],
)
def test_a_wrong_configuration_is_refused(
    tmp_path: Path, given: str, message: str
) -> None:
    (tmp_path / "search.json").write_text(given)
    with pytest.raises(ToolError) as caught:
        SearchService.read(tmp_path / "search.json")
    assert message in str(caught.value)
