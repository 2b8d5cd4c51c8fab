"""Show a page as the model reads it: wrapped, numbered lines and numbered links.

    [3] Title (notes/a.md)
    **viewing lines [0 - 5] of 12**

    L0: See 【0†the other note】.

The format is that of OpenAI's reference tool (`simple_browser` of openai/gpt-oss), with
which the model was trained. Knows nothing of where pages come from.
"""

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LINE_WIDTH = 80  # characters per line
VIEW_BYTES = 4096  # per display: about 1024 tokens, as in the reference
MATCH_LINES = 4  # shown of each match
MAX_MATCHES = 50
CONTEXT_LINES = 4  # shown above the target of a link
BRACKET_TRANSLATION = str.maketrans(
    {"【": "〖", "】": "〗", "\u200b": None}
)  # 【 and 】 mark links
LINK = re.compile(r"【\d+†([^†】]+)(?:†[^†】]+)?】")


@dataclass(frozen=True)
class Page:
    """A page. `links` maps the n in 【n†text】 to an address, `lines` to a line."""

    address: str
    title: str
    text: str
    links: Mapping[int, str] = field(default_factory=dict)
    lines: Mapping[int, int] = field(default_factory=dict)
    listing: bool = False  # of results, which `find` does not search


class PageLinks:
    """Numbers the links of a page while its text is built."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str, address: str) -> str:
        """Return the mark of a link; an address keeps its number."""
        number = self._numbers.setdefault(address, len(self._numbers))
        return f"【{number}†{text.replace('†', '‡')}】"

    @property
    def addresses(self) -> dict[int, str]:
        """The addresses by number."""
        return {number: address for address, number in self._numbers.items()}


def wrap_lines(text: str) -> list[str]:
    """Wrap text into lines of at most LINE_WIDTH characters, keeping empty lines."""
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
    """Show `count` lines from `first`, or as many as fit a display.

    Raises IndexError for a line beyond the end.
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
    """Return a page that lists the matches of `pattern`, ignoring case."""
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
    """Return the first lines that fit a display; at least one."""
    sizes = itertools.accumulate(len(line.encode()) + 1 for line in lines)
    fitting = sum(
        1 for _ in itertools.takewhile(lambda size: size <= VIEW_BYTES, sizes)
    )
    return list(lines[: max(fitting, 1)])
