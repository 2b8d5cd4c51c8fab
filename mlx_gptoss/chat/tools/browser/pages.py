"""A page as the model reads it: wrapped, numbered lines, links with a number.

    [3] Title (notes/a.md)
    **viewing lines [0 - 5] of 12**

    L0: See 【0†the other note】.

The form is that of OpenAI's reference tool (`simple_browser` of openai/gpt-oss),
which the model was trained with. Knows nothing of where pages come from.
"""

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LINE_WIDTH = 80  # characters a line
VIEW_BYTES = 4096  # of one display; about 1024 tokens, as in the reference
MATCH_LINES = 4  # shown of each place that `find` found
MAX_MATCHES = 50
CONTEXT_LINES = 4  # shown above the place a link points at
BRACKET_TRANSLATION = str.maketrans(
    {"【": "〖", "】": "〗", "\u200b": None}
)  # ours mark links
LINK = re.compile(r"【\d+†([^†】]+)(?:†[^†】]+)?】")


@dataclass(frozen=True)
class Page:
    """`links` give where the numbers in 【number†text】 lead; `lines` at which line."""

    address: str
    title: str
    text: str
    links: Mapping[int, str] = field(default_factory=dict)
    lines: Mapping[int, int] = field(default_factory=dict)
    listing: bool = False  # of places in other pages: nothing to find in


class PageLinks:
    """Numbers links while the text of a page is made."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str, address: str) -> str:
        """Write a link; the same address keeps its number."""
        number = self._numbers.setdefault(address, len(self._numbers))
        return f"【{number}†{text.replace('†', '‡')}】"

    @property
    def addresses(self) -> dict[int, str]:
        return {number: address for address, number in self._numbers.items()}


def wrap_lines(text: str) -> list[str]:
    """Cut text into lines of at most WIDTH characters; empty lines stay."""
    return list(
        itertools.chain.from_iterable(
            textwrap.wrap(
                line, LINE_WIDTH, replace_whitespace=False, drop_whitespace=False
            )
            or [""]
            for line in text.split("\n")
        )
    )


def display(page: Page, cursor: int, first: int, count: int) -> str:
    """Show `count` lines from `first` on, or as many as one display holds.

    Raises IndexError for a line that is not there.
    """
    lines = wrap_lines(page.text)
    if not 0 <= first < len(lines):
        raise IndexError(
            f"Invalid location parameter: `{first}`. "
            f"Cannot exceed page maximum of {len(lines) - 1}."
        )
    numbered = [f"L{number}: {line}" for number, line in enumerate(lines)]
    shown = numbered[first : first + count] if count > 0 else _view(numbered[first:])
    place = f" ({page.address})" if page.address else ""
    last = first + len(shown) - 1
    return (
        f"[{cursor}] {page.title}{place}\n"
        f"**viewing lines [{first} - {last}] of {len(lines) - 1}**\n\n"
        + "\n".join(shown)
    )


def find_in_page(page: Page, pattern: str) -> Page:
    """List the places where `pattern` stands in a page, whatever its case."""
    lines = wrap_lines(LINK.sub(r"\1", "\n".join(wrap_lines(page.text))))
    wanted = pattern.lower()
    chunks: list[str] = []
    places: dict[int, int] = {}
    at = 0
    while at < len(lines) and len(chunks) < MAX_MATCHES:
        if wanted not in lines[at].lower():
            at += 1
            continue
        places[len(chunks)] = at
        shown = lines[at : at + MATCH_LINES]
        chunks.append("\n".join([f"# 【{len(chunks)}†match at L{at}】", *shown]))
        at += MATCH_LINES
    return Page(
        f"{page.address}/find?pattern={pattern}",
        f"Find results for text: `{pattern}` in `{page.title}`",
        "\n\n".join(chunks) or f"No `find` results for pattern: `{pattern}`",
        dict.fromkeys(places, page.address),
        places,
        listing=True,
    )


def _view(lines: Sequence[str]) -> list[str]:
    """The first lines, as long as they fit; at least one."""
    sizes = itertools.accumulate(len(line.encode()) + 1 for line in lines)
    fitting = sum(
        1 for _ in itertools.takewhile(lambda size: size <= VIEW_BYTES, sizes)
    )
    return list(lines[: max(fitting, 1)])
