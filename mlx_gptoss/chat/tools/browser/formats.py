"""Convert Markdown, HTML and plain text to pages. Knows no files or networks."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

from mlx_gptoss.chat.tools.browser.pages import BRACKET_TRANSLATION, Page, PageLinks

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
MARKDOWN_SUFFIXES = (".md", ".markdown", ".mdown")
MARKDOWN_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(\s*<?([^()\s<>]+)>?[^()]*\)")
MARKDOWN_TITLE = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)
HIDDEN_TAGS = ("script", "style", "template", "noscript", "svg", "math")
BLOCKS = (
    "address article aside blockquote body dd details div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section "
    "summary table tbody td tfoot th thead tr ul"
)
BLOCK_TAGS = frozenset(BLOCKS.split())
SPACED_TAGS = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "pre")
CELL_TAGS = ("td", "th")
BULLET = "  * "
ResolveLink = Callable[[str], str | None]  # from a link as written to an address


def page_from_text(address: str, text: str, resolve: ResolveLink) -> Page:
    """Convert the text of a file, by the suffix of its address."""
    lower = address.lower()
    text = text.replace("\r\n", "\n").translate(BRACKET_TRANSLATION)
    if lower.endswith(HTML_SUFFIXES):
        return page_from_html(address, text, resolve)
    if lower.endswith(MARKDOWN_SUFFIXES):
        return _page_from_markdown(address, text, resolve)
    return Page(address, address.rpartition("/")[2], text)


def page_from_html(
    address: str, html: str, resolve: ResolveLink, title: str = ""
) -> Page:
    """Convert HTML to a page of its text, line by line, with its links."""
    reader = HtmlTextParser(resolve)
    reader.feed(html.translate(BRACKET_TRANSLATION))
    reader.close()
    name = title or reader.title or address.rpartition("/")[2]
    return Page(address, " ".join(name.split()), reader.text, reader.links.addresses)


def _page_from_markdown(address: str, text: str, resolve: ResolveLink) -> Page:
    links = PageLinks()

    def mark(found: re.Match[str]) -> str:
        image, shown, target = found.groups()
        goal = None if image else resolve(target)
        if goal is None:
            return f"[Image: {shown}]" if image else found.group()
        return links.mark(shown or target, goal)

    marked = MARKDOWN_LINK.sub(mark, text)
    title = MARKDOWN_TITLE.search(text)
    name = title.group(1) if title else address.rpartition("/")[2]
    return Page(address, name, marked, links.addresses)


class HtmlTextParser(HTMLParser):
    """Extracts the visible text of HTML: one line per block, with marked lists."""

    def __init__(self, resolve: ResolveLink) -> None:
        super().__init__(convert_charrefs=True)
        self.links = PageLinks()
        self.title = ""
        self._resolve = resolve
        self._out: list[str] = []
        self._hidden_depth = 0
        self._in_title = False
        self._pre_depth = 0
        self._link: tuple[str, list[str]] | None = None

    @property
    def text(self) -> str:
        lines = [line.rstrip() for line in "".join(self._out).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "title":
            self._in_title = True
        elif tag in HIDDEN_TAGS:
            self._hidden_depth += 1
        elif tag == "br":
            self._write("\n")
        elif tag == "img":
            name = given.get("alt") or given.get("title")
            self._write(f"[Image: {name}]" if name else "[Image]")
        elif tag == "a":
            self._end_link()
            if goal := self._resolve(given.get("href") or ""):
                self._link = (goal, [])
        elif tag in BLOCK_TAGS:
            self._block(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in HIDDEN_TAGS:
            self._hidden_depth = max(self._hidden_depth - 1, 0)
        elif tag == "a":
            self._end_link()
        elif tag in CELL_TAGS:
            self._write(" ")
        elif tag in BLOCK_TAGS:
            if tag == "pre":
                self._pre_depth = max(self._pre_depth - 1, 0)
            if self._link is not None and any(map(str.strip, self._link[1])):
                self._end_link()
            self._line(gap=tag in SPACED_TAGS)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._hidden_depth:
            self._write(data if self._pre_depth else re.sub(r"\s+", " ", data))

    def close(self) -> None:
        super().close()
        self._end_link()

    def _block(self, tag: str) -> None:
        if tag in CELL_TAGS:
            return
        self._line(gap=tag in SPACED_TAGS)
        if tag == "pre":
            self._pre_depth += 1
        elif tag == "li":
            self._out.append(BULLET)
        elif tag[0] == "h" and tag[1:].isdigit():
            self._out.append("#" * int(tag[1:]) + " ")

    def _write(self, text: str) -> None:
        if self._hidden_depth:
            return
        target = self._out if self._link is None else self._link[1]
        if text.startswith(" ") and self._at_line_start():
            text = text.lstrip(" ")
        target.append(text)

    def _at_line_start(self) -> bool:
        if self._pre_depth or self._link is not None:
            return False
        return not self._out or self._out[-1].endswith(("\n", " "))

    def _end_link(self) -> None:
        if self._link is None:
            return
        (goal, pieces), self._link = self._link, None
        if text := " ".join("".join(pieces).split()):
            self._write(self.links.mark(text, goal))

    def _line(self, *, gap: bool) -> None:
        if self._link is not None:
            self._link[1].append(" ")
        elif self._out and self._out[-1] != BULLET:
            ended = self._out[-1].endswith("\n")
            self._out.append("\n" * (gap + (not ended)))
