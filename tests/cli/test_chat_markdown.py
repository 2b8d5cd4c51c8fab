"""Markdown that streams: nothing lost, nothing twice, the same however it comes."""

import re
from io import StringIO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_gptoss.cli.chat.layout import ScreenLayout
from mlx_gptoss.cli.chat.markdown import MarkdownStream, OutputPart

LAYOUT = ScreenLayout(StringIO())
COLUMNS = 60
WORD = re.compile(r"w\d{4}w")  # as `words` makes them

words = st.integers(1000, 9999).map("w{}w".format)
MARKS = """\
# /- /1. /12) /> /`/**/*/_/|/| /    /[/](/)/![/[x]: /\\(/\\)/\\[/&amp;/\\/~~/ /$$
<b>/<kbd>/<!-- /日本/🎉/שלום/\u0301/\t/  """
LINES = [
    "\n",
    "\n\n",
    "---\n",
    "===\n",
    "|--|\n",
    "```\n",
    "~~~py\n",
    "<div>\n",
    "  \n",
]
marks = st.sampled_from(MARKS.replace("\n", "/").split("/") + LINES)
texts = st.lists(st.one_of(words, marks, st.just(" ")), max_size=60).map("".join)


def lines_of(text: str, *, piece: int, looked_at: bool = False) -> list[str]:
    """Lay `text` out as it comes in pieces."""
    stream = MarkdownStream()
    parts: list[OutputPart] = []
    for n in range(0, len(text), piece):
        parts += stream.feed(text[n : n + piece])
        if looked_at:
            LAYOUT.lines(stream.rest(), COLUMNS)
    return LAYOUT.lines(parts + stream.finish(), COLUMNS)


@settings(max_examples=200, deadline=None)
@given(text=texts, piece=st.integers(1, 20))
@example(text="- w1111w\n- w2222w\n\n\nw3333w", piece=1)
@example(text="w1111w\n-\n--\nw2222w", piece=1)
def test_every_word_is_shown_once_and_in_order(text: str, piece: int) -> None:
    shown = "".join("\n".join(lines_of(text, piece=piece, looked_at=True)).split())
    assert WORD.findall(shown) == WORD.findall(text)


@settings(max_examples=200, deadline=None)
@given(text=texts, piece=st.integers(1, 20))
def test_it_looks_the_same_however_it_comes(text: str, piece: int) -> None:
    assert lines_of(text, piece=piece) == lines_of(text, piece=1)


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_what_is_under_way_ends_as_it_will_stay(text: str) -> None:
    """The last look at the unfinished text is what finishing then prints."""
    stream = MarkdownStream()
    stream.feed(text)
    assert LAYOUT.lines(stream.rest(), COLUMNS) == LAYOUT.lines(
        stream.finish(), COLUMNS
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("# Title\ntext", ["", "Title", "", "text"]),
        ("a\nb", ["", "a", "b"]),
        ("- a\n- b\n  - c\n", ["", " • a", " • b", "    • c"]),
        ("9. a\n10. b\n", ["", "  9 a", " 10 b"]),
        ("```py\nx = 1\n\ny\n```\n", ["", "  py", "  x = 1", "", "  y"]),
        ("Use <br> and </kbd>.", ["", "Use <br> and </kbd>."]),
        ("[a](http://b.c)", ["", "a (http://b.c)"]),
        ("![a](b.png)", ["", "!a (b.png)"]),
        (r"so \(a_1 * b_2 * c\) is", ["", "so a₁ * b₂ * c is"]),
        ("[a]: http://b.c", ["", "[a]: http://b.c"]),
        ("|a|\n|-|\n|1|2|", ["", "|a|", "|-|", "|1|2|"]),
        ('[a](b.c "d")', ["", '[a](b.c "d")']),
        ("a &lt; b", ["", "a < b"]),
    ],
)
def test_how_it_looks(text: str, lines: list[str]) -> None:
    assert lines_of(text, piece=100) == lines


def test_finished_blocks_are_given_at_once() -> None:
    stream = MarkdownStream()
    assert stream.feed("first\n\n") == []  # a table's or a heading's line may follow
    assert len(stream.feed("second\n")) == 1
    assert LAYOUT.lines(stream.rest(), COLUMNS) == ["", "second"]


def test_items_and_lines_of_code_are_given_one_by_one() -> None:
    stream = MarkdownStream()
    given = [len(stream.feed(f"- item {n}\n")) for n in range(5)]
    assert given == [0, 1, 1, 1, 1]
    stream = MarkdownStream()
    given = [len(stream.feed(text)) for text in ("```\n", "a\n", "b", "\n", "c\n")]
    assert given == [0, 1, 0, 1, 1]


@pytest.mark.parametrize("mark", ["> ", "- ", "1. ", "*", "[", "| "])
def test_what_is_nested_without_end_is_shown_as_it_is(mark: str) -> None:
    shown = "".join("".join(lines_of(mark * 500 + "ab1", piece=1000)).split())
    assert "ab1" in shown
