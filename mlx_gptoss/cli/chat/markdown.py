"""Markdown that arrives in pieces: what is finished, and what may still change.

A block is finished when the next one has begun; items of a list and lines of code
are finished one by one, so that a long answer scrolls by as it comes. Whatever the
text is, all its words are shown: HTML, links and pictures stay as they were written.
Knows blocks and their look; nothing of the terminal.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from html import unescape
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from rich import markdown
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

THEME = "ansi_dark"  # the terminal's own colours, so that any background will do
DEEPEST = 8  # levels of nesting that are laid out; what is deeper is shown as written
NESTING = 1000  # what the parser takes; the text below it would vanish
INDENT = 2  # columns before code
BEFORE = 200  # lines of code that are read to know the colours of those behind
FENCE = "fence"
LISTS = ("bullet_list_open", "ordered_list_open")
WORD = re.compile(r"[^\W_]+")
NUMERAL = re.compile(r"^[ \t>]*\d+[.)]", re.MULTILINE)  # of a list: shown, no token
MATHS = {"(": "\\)", "[": "\\]"}


@dataclass(frozen=True)
class OutputPart:
    """Something to print; a blank line stands before it unless it goes on."""

    content: RenderableType
    goes_on: bool = False


class MarkdownStream:
    """Takes text as it comes and gives it back in finished parts."""

    def __init__(self) -> None:
        self._text = ""  # from the first block on that is not finished
        self._lines = 0  # of code in that block that were given already
        self._goes_on = False  # whether that block continues a list given before

    def feed(self, text: str) -> list[OutputPart]:
        """Add `text`; return the parts that are finished now."""
        self._text += text
        if "\n" not in text:
            return []
        whole = self._text[: self._text.rfind("\n") + 1]  # a half line may be anything
        return self._take(whole, last=False)

    def finish(self) -> list[OutputPart]:
        """Return all that is left: nothing more will come."""
        return self._take(self._text, last=True)

    def rest(self) -> list[OutputPart]:
        """Return what is not finished, as it looks now."""
        tokens = _parse(self._text)
        blocks = _blocks(tokens)
        if not blocks:
            return []
        if blocks[0].type == FENCE:
            first = self._code(blocks[0], last=True)
            after = self._text.split("\n")[_start(blocks[1]) :] if blocks[1:] else []
            return first + (
                [OutputPart(MarkdownBlocks("\n".join(after)))] if after else []
            )
        return [OutputPart(MarkdownBlocks(self._text), self._goes_on)]

    def _take(self, text: str, *, last: bool) -> list[OutputPart]:
        """Cut the finished blocks of `text` off what is kept."""
        tokens = _parse(text)
        blocks = _blocks(tokens)
        lines = text.split("\n")
        parts: list[OutputPart] = []
        cut = 0
        for n, block in enumerate(blocks):
            finished = last or n + 1 < len(blocks)
            start = _start(block)
            end = _start(blocks[n + 1]) if n + 1 < len(blocks) else len(lines)
            if block.type == FENCE:
                code = self._code(block, last=finished)
                parts += code
                self._lines = 0 if finished else self._lines + _code_lines(code)
            elif not finished and (item := _last_item(tokens, block)) > start:
                parts.append(self._block(lines[start:item]))
                self._goes_on, cut = True, item
                break
            elif finished:
                parts.append(self._block(lines[start:end]))
            if not finished:
                break
            cut = end
            self._goes_on = False
        kept = len("\n".join(lines[:cut])) + (cut > 0)
        self._text = self._text[kept:]
        return parts

    def _block(self, lines: list[str]) -> OutputPart:
        return OutputPart(MarkdownBlocks("\n".join(lines)), self._goes_on)

    def _code(self, block: Token, *, last: bool) -> list[OutputPart]:
        """The lines of code that were not given yet; a half line only at the last."""
        lines = block.content.split("\n")
        count = len(lines) - 1  # there is nothing behind the last newline
        if last and lines[-1]:
            count += 1
        named = last and not self._lines and block.info.strip()
        if count <= self._lines and not named:
            return []
        code = CodeLines(block.content, block.info, self._lines, count)
        return [OutputPart(code, goes_on=self._lines > 0)]


class MarkdownBlocks(markdown.Markdown):
    """Blocks of Markdown, laid out.

    What is nested too deep stays as it was written, as does what would lose words: a
    table's cell without a column, the title of a link.
    """

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.source = text.strip("\n")
        self.parsed = _parse(text)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        deepest = max((token.level for token in self.parsed), default=0)
        if deepest > 2 * DEEPEST or _loses_words(self.source, self.parsed):
            yield Text(self.source)
        else:
            yield from super().__rich_console__(console, options)


class Heading(markdown.Heading):
    """A heading at the left, whatever its level."""

    LEVEL_ALIGN: ClassVar = {}


class FencedCode(markdown.CodeBlock):
    """Code within a list or a quotation, where it comes whole."""

    @classmethod
    def create(cls, markdown: markdown.Markdown, token: Token) -> "FencedCode":
        return cls(token.info or "text", markdown.code_theme)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        code = str(self.text).rstrip("\n")
        yield CodeLines(code, self.lexer_name, 0, code.count("\n") + 1)


class HorizontalRule(markdown.HorizontalRule):
    """A short line: one across the screen breaks when the screen gets narrower."""

    new_line = True

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        yield Text("─" * min(20, options.max_width), style="markdown.hr")


MarkdownBlocks.elements = markdown.Markdown.elements | {
    "heading_open": Heading,
    "fence": FencedCode,
    "code_block": FencedCode,
    "hr": HorizontalRule,
}


@dataclass(frozen=True)
class CodeLines:
    """Lines `first` to `end` of code, coloured as what stands before them asks."""

    text: str
    info: str
    first: int
    end: int
    named: bool = True  # whether the language stands above

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        info = self.info.strip()
        language = info.partition(" ")[0]
        start = max(0, self.first - BEFORE)
        text = "\n".join(self.text.split("\n")[start : self.end])
        if self.named and self.first == 0 and info not in ("", "text"):
            yield Padding(Text(info, style="dim italic"), (0, INDENT))
        syntax = Syntax("", language or "text", theme=THEME)
        lines = syntax.highlight(text).split("\n", allow_blank=True)
        for line in lines[self.first - start : self.end - start]:
            line.expand_tabs(4)
            line.overflow = "fold"
            yield Padding(line, (0, 0, 0, min(INDENT, options.max_width // 4)))


def joined(parts: list[OutputPart]) -> list[OutputPart]:
    """Lay code out at once that came line by line: its colours are found together."""
    found: list[OutputPart] = []
    for part in parts:
        before = found[-1].content if found else None
        code = part.content
        if (
            part.goes_on
            and isinstance(before, CodeLines)
            and isinstance(code, CodeLines)
        ):
            whole = replace(code, first=before.first)
            found[-1] = replace(found[-1], content=whole)
        else:
            found.append(part)
    return found


@cache
def _parser() -> MarkdownIt:
    """CommonMark that keeps every word: what it does not lay out it leaves as text."""
    options = {"html": False, "maxNesting": NESTING}
    parser = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    parser.disable(["reference", "image"])
    parser.inline.ruler.before("escape", "maths", _maths)
    return parser


def _maths(state: StateInline, silent: bool) -> bool:
    r"""Keep `\( ... \)` and `\[ ... \]` as they are: they are full of `_` and `*`."""
    opening = state.src[state.pos : state.pos + 2]
    if opening[:1] != "\\" or opening[1:] not in MATHS:
        return False
    end = state.src.find(MATHS[opening[1:]], state.pos + 2)
    if end < 0:
        return False
    if not silent:
        token = state.push("code_inline", "code", 0)
        token.content = state.src[state.pos : end + 2]
    state.pos = end + 2
    return True


def _parse(text: str) -> list[Token]:
    """Parse, with line breaks where the model made them."""
    try:
        tokens = _parser().parse(text)
    except RecursionError:  # nested without end: nothing but paragraphs, then
        tokens = MarkdownIt("zero").parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def _loses_words(source: str, tokens: list[Token]) -> bool:
    """Whether some word of the source is in none of its tokens."""
    kept: Counter[str] = Counter()
    for token in tokens:
        for one in (token, *(token.children or ())):
            if not one.children:
                text = f"{one.content} {one.info} {one.attrs.get('href', '')}"
                kept.update(WORD.findall(text))
    written = Counter(WORD.findall(unescape(NUMERAL.sub("", source))))
    return bool(written - kept)


def _blocks(tokens: list[Token]) -> list[Token]:
    """The tokens that begin a block of the text itself."""
    return [token for token in tokens if token.level == 0 and token.nesting >= 0]


def _start(block: Token) -> int:
    return block.map[0] if block.map else 0


def _last_item(tokens: list[Token], block: Token) -> int:
    """The line on which the last item of a list begins, the list being the last."""
    if block.type not in LISTS:
        return 0
    items = [one for one in tokens if one.level == 1 and one.type == "list_item_open"]
    first = _start(block)
    starts = [_start(item) for item in items if _start(item) >= first]
    return starts[-1] if starts else 0


def _code_lines(parts: list[OutputPart]) -> int:
    """How many lines of code the last part shows."""
    code = parts[-1].content if parts else None
    return code.end - code.first if isinstance(code, CodeLines) else 0
