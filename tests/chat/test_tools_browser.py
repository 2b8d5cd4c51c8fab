"""The browser tool: pages as the model was trained to read them, and no way out."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.tools.browser import Browser, Citation, Folders, SearchService
from mlx_gptoss.chat.tools.browser.folders import _list_folder, _read_text
from mlx_gptoss.chat.tools.browser.formats import page_from_html
from mlx_gptoss.chat.tools.browser.pages import LINE_WIDTH, VIEW_BYTES, wrap_lines
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import ToolError
from mlx_gptoss.harmony.events import ToolResult
from tests.support.fakes import answering

OUTSIDE = ("read", "`{}` is outside the folders that may be read")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    (root / "trips").mkdir(parents=True)
    (root / "trips" / "oslo.md").write_text(
        "# Oslo in May\n\nThe ferry to the islands goes hourly.\n"
        "See [the packing list](../packing.txt), [home](https://example.com),\n"
        "![map](map.png) and [nothing](gone.md).\n"
    )
    (root / "packing.txt").write_text("rain coat\nferry ticket\n")
    (root / "page.html").write_text(
        "<html><head><title>A  page</title><style>p {}</style><body>"
        "<h1>Head</h1><p>One <b>two</b>\n three</p><script>bad()</script>"
        "<ul><li><p>first</p></li><li><a href='trips/oslo.md'><h3>Go</h3></a></ul>"
        "<table><tr><td>a</td><td>b</td></tr></table>"
        "<pre>x\n  y</pre>fish &amp; 【chips】"
    )
    (root / ".secret").write_text("ferry password")
    (tmp_path / "outside.txt").write_text("ferry outside")
    (root / "out.txt").symlink_to(tmp_path / "outside.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "data.bin").write_bytes(b"ferry\0\1")
    return root


@pytest.fixture
def browser(folder: Path) -> Browser:
    return Browser(Folders(folder))


# What the model reads


def test_a_file_is_shown_with_numbered_lines_and_links(browser: Browser) -> None:
    assert browser.open("trips/oslo.md") == (
        "[0] Oslo in May (trips/oslo.md)\n"
        "**viewing lines [0 - 5] of 5**\n"
        "\n"
        "L0: # Oslo in May\n"
        "L1: \n"
        "L2: The ferry to the islands goes hourly.\n"
        "L3: See 【0†the packing list】, [home](https://example.com),\n"
        "L4: [Image: map] and [nothing](gone.md).\n"
        "L5: "
    )
    assert browser.open(0).startswith("[1] packing.txt (packing.txt)\n")


def test_html_becomes_text(browser: Browser) -> None:
    text = browser.open("page.html")
    assert text == (
        "[0] A page (page.html)\n"
        "**viewing lines [0 - 13] of 13**\n"
        "\n"
        "L0: # Head\n"
        "L1: \n"
        "L2: One two three\n"
        "L3: \n"
        "L4:   * first\n"
        "L5: \n"
        "L6:   * ### 【0†Go】\n"
        "L7: \n"
        "L8: a b\n"
        "L9: \n"
        "L10: x\n"
        "L11:   y\n"
        "L12: \n"
        "L13: fish & 〖chips〗"
    )
    assert "<h1>Head</h1>" in browser.open("page.html", view_source=True)


def test_a_search_lists_the_best_files_first(browser: Browser) -> None:
    text = browser.search("ferry islands")
    assert text == (
        "[0] ferry islands\n"
        "**viewing lines [0 - 3] of 3**\n"
        "\n"
        "L0: # Search Results\n"
        "L1: \n"
        "L2:   * 【0†trips/oslo.md】 The ferry to the islands goes hourly.\n"
        "L3:   * 【1†packing.txt】 ferry ticket"
    )
    assert "No file has a word of `xyzzy`" in browser.search("xyzzy", topn=3)


def test_what_find_finds_can_be_opened_there(browser: Browser, folder: Path) -> None:
    lines = [f"line {number}" for number in range(60)]
    (folder / "long.txt").write_text("\n".join(lines))
    browser.open("long.txt")
    found = browser.find("LINE 4")
    assert "Find results for text: `LINE 4` in `long.txt`" in found
    assert "L0: # 【0†match at L4】\nL1: line 4\n" in found
    assert "# 【1†match at L40】" in found
    assert "L36: line 36\n" in browser.open(1) and "L35" not in browser.open(1, 1)
    assert "No `find` results for pattern: `zzz`" in browser.find("zzz")
    with pytest.raises(ToolError, match="Cannot run `find` on search results page"):
        browser.find("line")


def test_a_long_page_is_shown_in_parts(browser: Browser, folder: Path) -> None:
    (folder / "long.txt").write_text("\n".join(f"line {n}" for n in range(2000)))
    first = browser.open("long.txt")
    last = int(first.split(" of ")[0].split(" - ")[1].rstrip("]"))
    assert len(first.encode()) < VIEW_BYTES + 200 and 100 < last < 1999
    assert f"viewing lines [{last + 1} - " in browser.open(loc=last + 1)
    assert browser.open(loc=7, num_lines=2).endswith("\n\nL7: line 7\nL8: line 8")
    with pytest.raises(ToolError, match="Cannot exceed page maximum of 1999"):
        browser.open(loc=2000)
    assert browser.open(cursor=0).startswith("[3] long.txt")  # the failure took none


def test_a_folder_is_a_page_of_links(browser: Browser) -> None:
    text = browser.open()
    assert text.endswith(
        "L0:   * 【0†trips/】\nL1:   * 【1†data.bin】\n"
        "L2:   * 【2†packing.txt】\nL3:   * 【3†page.html】"
    )
    assert "【0†oslo.md】" in browser.open(0)


def test_several_roots_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "notes"
    other.mkdir(parents=True)
    browser = Browser(Folders(folder, other, tmp_path / "outside.txt"))
    listed = browser.open()
    assert "【0†notes】" in listed and "【1†notes-2】" in listed
    assert "ferry outside" in browser.open("outside.txt")
    assert "notes/packing.txt" in browser.search("coat")
    assert "【0†trips/oslo.md】" not in browser.open("notes/trips")
    assert "Oslo in May" in browser.open(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"id": 7}, "Invalid link id `7`."),
        (
            {"cursor": 4},
            "Cursor `4` is out of range. Available cursor indices: [0 - 0].",
        ),
        ({"cursor": -3}, "Cursor `-3` is out of range"),
        ({"id": "gone.md"}, "there is no `gone.md`"),
        ({"id": "https://example.com/"}, "`https://example.com/` is not a file"),
        ({"id": "data.bin"}, "`data.bin` is not a text"),
    ],
)
def test_what_cannot_be_opened_is_said(
    browser: Browser, call: dict[str, Any], message: str
) -> None:
    browser.open()
    tool = {one.name: one for one in browser.tools}["browser.open"]
    assert tool.run(json.dumps(call)).startswith(f"Error: {message}")


def test_without_a_page_there_is_nothing_to_find(browser: Browser) -> None:
    with pytest.raises(ToolError, match="No pages to access!"):
        browser.find("x")


# No way out of the folder


@pytest.mark.parametrize(
    "address",
    [
        "../outside.txt",
        "trips/../../outside.txt",
        "/etc/passwd",
        "out.txt",
        "up/outside.txt",
        "up",
        "up/notes/../outside.txt",
        "..",
    ],
)
def test_nothing_outside_the_folder_is_read(browser: Browser, address: str) -> None:
    with pytest.raises(ToolError, match=r"is outside the folders|there is no"):
        browser.open(address)


@pytest.mark.parametrize(
    "address", [".secret", "./.secret", "trips/.hidden/x", "a\0b", "", "file:///etc"]
)
def test_hidden_and_odd_names_are_not_there(folder: Path, address: str) -> None:
    if address:
        with pytest.raises(ToolError):
            Folders(folder).open(address)
    assert ".secret" not in Folders(folder).open("").text


def test_a_pipe_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises(ToolError, match=r"there is no `pipe.txt`"):
        Folders(folder).open("pipe.txt")
    Folders(folder).search("ferry", 5)  # and does not hang


@pytest.fixture
def odd(folder: Path) -> Path:
    """The folder with what nobody would expect in one."""
    (folder / "loop").symlink_to("loop")
    (folder / "there").symlink_to("back")
    (folder / "back").symlink_to("there")
    (folder / "trips" / "round").symlink_to("../trips")
    (folder / "gone").symlink_to("nowhere")
    (folder / "line\nbreak.txt").write_text("ferry")
    (folder / os.fsdecode(b"bytes\xff.txt")).write_text("ferry")
    (folder / "large.txt").write_bytes(b"ferry " * (1 << 20))
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    return folder


def test_odd_neighbours_do_not_hide_a_folder(odd: Path) -> None:
    browser = Browser(Folders(odd))
    listed = browser.open("")
    found = browser.search("ferry")

    assert "trips/" in listed and "packing.txt" in listed and "large.txt" in listed
    assert "packing.txt" in found
    for name in ("loop", "there", "gone", "pipe", "socket", "break", "bytes"):
        assert name not in listed + found


@pytest.mark.parametrize("address", ["loop", "there/x", "gone", "pipe.txt", "socket"])
def test_what_is_no_file_is_not_there(odd: Path, address: str) -> None:
    with pytest.raises(ToolError, match="there is no"):
        Folders(odd).open(address)


def test_half_a_pair_in_an_address_is_no_file(folder: Path) -> None:
    with pytest.raises(ToolError, match="no file with a name that is not text"):
        Folders(folder).open("trips/\ud800")
    with pytest.raises(ToolError, match="cannot read 'a"):
        Folders("a\0b")


@pytest.mark.parametrize("name", ["loop", "pipe.txt", "socket", "gone"])
def test_no_browser_begins_with_what_is_no_folder(odd: Path, name: str) -> None:
    with pytest.raises(ToolError, match=f"cannot read `.*{name}`: "):
        Folders(odd / name)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_read(odd: Path) -> None:
    with pytest.raises(ToolError, match="it is not a regular file"):
        _read_text(odd / "pipe.txt", "packing.txt")


def test_what_vanishes_is_said(folder: Path) -> None:
    with pytest.raises(ToolError, match="`x` cannot be read: No such file"):
        _read_text(folder / "x", "x")
    with pytest.raises(ToolError, match="`x` cannot be read: No such file"):
        _list_folder(folder / "x", "x")


def test_a_search_sees_neither_hidden_nor_outside_files(browser: Browser) -> None:
    text = browser.search("ferry")
    assert "packing.txt" in text and "oslo.md" in text
    for name in ("secret", "outside", "out.txt", "up/", "data.bin"):
        assert name not in text


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"cannot read `.*/gone`: No such file"):
        Folders(tmp_path / "gone")


# In a chat


def test_a_chat_browses_and_cites(browser: Browser) -> None:
    call = "<|channel|>analysis to=browser.{} code<|message|>{}<|call|>"
    search = call.format("search", '{"query": "ferry", "top_n": 5}')
    opened = call.format("open", '{"cursor": 0, "id": 0}')
    answer = "Hourly 【1†L2】, pack 【1†L3-L4】, not 【9†L1】."
    final = f"<|channel|>final<|message|>{answer}<|return|>"
    with answering(search, opened, final) as runtime:
        params = SamplingParams(temperature=0, max_tokens=1000)  # ends, come what may
        chat = Chat(runtime, tools=[browser], params=params)

        events = list(chat.send("How often does the ferry go?"))

    results = [event.text for event in events if isinstance(event, ToolResult)]
    assert results[0].startswith("[0] ferry\n**viewing lines")
    assert results[1].startswith("[1] ")
    page = browser._shown[1]
    assert browser.citations(answer) == [
        Citation(7, 13, page.address, page.title, 2, 2),
        Citation(20, 29, page.address, page.title, 3, 4),
    ]
    [namespace] = chat.namespaces
    assert (namespace.description or "").endswith("sources=files (default: files)")
    chat.reset()
    assert browser._shown == []


# Pages


@given(st.text(alphabet="ab 【】†\n-é", max_size=400))
def test_wrapping_loses_nothing(text: str) -> None:
    lines = wrap_lines(text)
    assert "".join(lines) == text.replace("\n", "")
    assert max(map(len, lines)) <= LINE_WIDTH


@given(st.text(alphabet="<>/=\"' &;ablipre【】!-[]\n", max_size=200))
def test_any_html_is_read_and_only_links_are_marked(text: str) -> None:
    page = page_from_html("x.html", text, lambda link: link or None)
    unmarked = page.text
    for number in page.links:
        unmarked = unmarked.replace(f"【{number}†", "")
    assert "【" not in unmarked


# A search service


class FakeService(BaseHTTPRequestHandler):
    """Answers as SearXNG does, and serves a page."""

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
        ('{"search": "http://x/{query}", "serach": 1}', "needs `search` and may have"),
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
