"""The browser shows pages in the format of the model's training, and cites them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.tools.browser import Browser, Citation, Folders
from mlx_gptoss.chat.tools.browser.formats import page_from_html
from mlx_gptoss.chat.tools.browser.pages import LINE_WIDTH, VIEW_BYTES, wrap_lines
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import ToolError
from mlx_gptoss.harmony.events import ToolResult
from tests.support.fakes import answering
from tests.support.notes_folder import write_notes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_notes(tmp_path)


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
    assert browser.open(cursor=0).startswith(
        "[3] long.txt"
    )  # the failure used no cursor


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


# In a chat


def test_a_chat_browses_and_cites(browser: Browser) -> None:
    call = "<|channel|>analysis to=browser.{} code<|message|>{}<|call|>"
    search = call.format("search", '{"query": "ferry", "top_n": 5}')
    opened = call.format("open", '{"cursor": 0, "id": 0}')
    answer = "Hourly 【1†L2】, pack 【1†L3-L4】, not 【9†L1】."
    final = f"<|channel|>final<|message|>{answer}<|return|>"
    with answering(search, opened, final) as runtime:
        params = SamplingParams(temperature=0, max_tokens=1000)  # to end in any case
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
