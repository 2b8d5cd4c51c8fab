"""Markdown that grows is shown exactly as it is at once, and quickly."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.page_harness import Harness, open_harness
from tests.support.web_browser import browser

LINES = (
    "a **b** `c` [x][r] [r] <b>&amp;</b>",
    "*two\nlines*",
    "[r]: https://one.example",
    '[r]: https://two.example\n"title"',
    "[x]: <https://three.example>",
    "# Head",
    "===",
    "---",
    "- item",
    "- [x][r]",
    "1",
    "2. two",
    "10) ten",
    "* * *",
    "> quote",
    "lazy",
    "```python",
    "```",
    "~~~~",
    "print(1)",
    "| a | b |",
    "|---|:-:|",
    "| `c` | $d$ |",
    "$$",
    "x^2",
    "$$ y $$",
    "\\[",
    "\\]",
    "e = $mc^2$, $5 and $6",
    "![p](https://e.example/p.png) <https://auto.example>",
    "【0†L1-L2】",
    "line\\",
    "tab\tin it  ",
    "\u00a0",
    "\\",
    "",
    "",
    "",
)
INDENTS = ("", "", "", "  ", "   ", "    ", "\t", "> ", "- ", "1. ", "> - ")
ENDS = ("\n", "\n", "\n", "\n\n", "\r\n", "\r", "")


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Lines of every kind, in containers or not; some are cut."""
    parts = []
    for _ in range(draw(st.integers(1, 12))):
        line = draw(st.sampled_from(LINES))
        parts.append(draw(st.sampled_from(INDENTS)) + line)
        parts.append(draw(st.sampled_from(ENDS)))
    return "".join(parts)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with browser() as chromium:
        yield open_harness(chromium)


@given(documents(), st.data())
@example("2. a\n\n3. b", None)
@example("[x][r]\n\nmore\n\nand more\n\n[r]: https://one.example\n\nend", None)
@example("$$\n\n# Head\n\n$$\n\nend\n", None)
@example("$$\nx\n# Head\n$$\n\nend\n", None)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_text_that_grew_looks_like_text_that_was_there_at_once(
    harness: Harness, text: str, data: Any
) -> None:
    cuts: list[int] = [*range(len(text))]
    if data is not None:
        places = st.integers(0, len(text))
        cuts = sorted(data.draw(st.lists(places, max_size=20, unique=True)))
    texts = [text[:cut] for cut in cuts]

    assert harness.grown([*texts, text]) == harness.whole(text)


def test_what_is_shown_of_each_construct(harness: Harness) -> None:
    """The HTML that is compared above is not empty."""
    html = harness.whole(
        "[x][r]\n\n| a |\n|---|\n| $b$ |\n\n```python\nif 1: pass\n```\n\n"
        "$$\nx^2\n$$\n\n- one\n  - two\n\n[r]: https://one.example\n"
    )
    for wanted in (
        'href="https://one.example"',
        "<td><span",
        '<span class="hljs-keyword">if</span>',
        "<math",
        "<ul><li>two</li></ul>",
    ):
        assert wanted in html, wanted


def test_a_blank_line_ends_a_formula_that_was_not_closed(harness: Harness) -> None:
    assert "<math" not in harness.whole("$$\nx\n\ny\n$$")
    assert len(re.findall("<math", harness.whole("$$\nx\n$$\n\n\\[\ny\n\\]"))) == 2


WORDS = [f"{n * 7919 % 1000:03}" for n in range(2000)]
LONG = {
    "paragraphs and code": "Some **{0}**:\n\n- `{0}`\n\n```python\nx = {0}\n```\n\n",
    "one list": "- item **{0}** is `{0}`, with more words to it\n",
    "one table": "| {0} | **{0}** | `{0}` |\n",
    "one quotation": "> a word **{0}** and another\n",
    "code that is open": "x = {0}  # a comment on it\n",
}
HEADS = {
    "one table": "| a | b | c |\n|---|---|---|\n",
    "code that is open": "```python\n",
}


@pytest.mark.soak
@pytest.mark.parametrize("name", LONG)
def test_no_redraw_of_a_long_text_takes_long(harness: Harness, name: str) -> None:
    """100 ms for 40,000 characters, by hand on a machine with nothing else to do."""
    text = HEADS.get(name, "") + "".join(map(LONG[name].format, WORDS))

    assert harness.longest_redraw(text[:40_000], 400) < 100
