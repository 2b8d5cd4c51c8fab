"""Format streamed Markdown: finished parts, and a rest that may still change.

A block is finished when the next one starts; list items and lines of code are finished
one by one, so that a long answer scrolls as it arrives. Every word of the text is
shown: HTML, links and images are left as written. Formulas become readable text (see
`mathematics`). Knows blocks and their formatting; knows no terminal.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from html import unescape
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import markdown
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from mlx_gptoss.cli.chat.math_rules import BLOCK, SOURCE, TAG, add_mathematics

THEME = "ansi_dark"  # the terminal's own colours, which suit any background
DEEPEST = 8  # levels of nesting that are formatted; deeper blocks are left as written
NESTING = 1000  # the parser's limit; deeper text would vanish
INDENT = 2  # columns before code
BEFORE = 200  # earlier lines of code used as context for highlighting
FENCE = "fence"
LISTS = ("bullet_list_open", "ordered_list_open")
WORD = re.compile(r"[^\W_]+")
NUMERAL = re.compile(
    r"^[ \t>]*\d+[.)]", re.MULTILINE
)  # list markers: shown, but in no token


@dataclass(frozen=True)
class OutputPart:
    """A renderable; preceded by a blank line unless it continues a block."""

    content: RenderableType
    goes_on: bool = False


class MarkdownStream:
    """Split streamed text into finished parts."""

    def __init__(self) -> None:
        self._text = ""  # from the first unfinished block on
        self._lines = 0  # lines of code already returned from that block
        self._goes_on = False  # whether that block continues a list already returned

    def feed(self, text: str) -> list[OutputPart]:
        """Add `text`; return the newly finished parts."""
        self._text += text
        if "\n" not in text:
            return []
        whole = self._text[
            : self._text.rfind("\n") + 1
        ]  # an unfinished line may become anything
        return self._take(whole, last=False)

    def finish(self) -> list[OutputPart]:
        """Return all remaining parts: no more text follows."""
        return self._take(self._text, last=True)

    def rest(self) -> list[OutputPart]:
        """Return the unfinished part, as it looks now."""
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
        """Remove the finished blocks from the buffered text and return them."""
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
        """Return new lines of code; an unfinished line only at the end."""
        lines = block.content.split("\n")
        count = len(lines) - 1  # nothing follows the last newline
        if last and lines[-1]:
            count += 1
        named = last and not self._lines and block.info.strip()
        if count <= self._lines and not named:
            return []
        code = CodeLines(block.content, block.info, self._lines, count)
        return [OutputPart(code, goes_on=self._lines > 0)]


class MarkdownBlocks(markdown.Markdown):
    """Blocks of Markdown, formatted.

    Blocks nested too deeply are left as written, and so are those that would lose
    words: a table cell without a column, the title of a link.
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
    """A heading of any level, aligned left."""

    LEVEL_ALIGN: ClassVar = {}


class FencedCode(markdown.CodeBlock):
    """Code inside a list or a quotation, which arrives whole."""

    @classmethod
    def create(cls, markdown: markdown.Markdown, token: Token) -> "FencedCode":
        return cls(token.info or "text", markdown.code_theme)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        code = str(self.text).rstrip("\n")
        yield CodeLines(code, self.lexer_name, 0, code.count("\n") + 1)


class DisplayedFormula(markdown.CodeBlock):
    """A formula on lines of its own, indented."""

    @classmethod
    def create(cls, markdown: markdown.Markdown, token: Token) -> "DisplayedFormula":
        return cls("text", markdown.code_theme)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        formula = Text(str(self.text), style="markdown.math", overflow="fold")
        yield Padding(formula, (0, 0, 0, min(INDENT, options.max_width // 4)))


class HorizontalRule(markdown.HorizontalRule):
    """A short line, because a full-width one would wrap in a narrower window."""

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
    BLOCK: DisplayedFormula,
}
MarkdownBlocks.inlines = markdown.Markdown.inlines | {TAG}


@dataclass(frozen=True)
class CodeLines:
    """Lines `first` to `end` of code, highlighted in the context of earlier lines."""

    text: str
    info: str
    first: int
    end: int
    named: bool = True  # whether the language is shown above

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
    """Join code that arrived line by line, so that it is highlighted as a whole."""
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
    """Make a CommonMark parser that leaves unsupported syntax as text."""
    options = {"html": False, "maxNesting": NESTING}
    parser = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    parser.disable(["reference", "image"])
    add_mathematics(parser)
    return parser


def _parse(text: str) -> list[Token]:
    """Parse, keeping the model's line breaks."""
    try:
        tokens = _parser().parse(text)
    except RecursionError:  # nested too deeply: show plain paragraphs
        tokens = MarkdownIt("zero").parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def _loses_words(source: str, tokens: list[Token]) -> bool:
    """Say whether a word of the source is missing from the tokens."""
    kept: Counter[str] = Counter()
    for token in tokens:
        for one in (token, *(token.children or ())):
            if not one.children:
                content = one.meta.get(SOURCE, one.content)
                text = f"{content} {one.info} {one.attrs.get('href', '')}"
                kept.update(WORD.findall(text))
    written = Counter(WORD.findall(unescape(NUMERAL.sub("", source))))
    return bool(written - kept)


def _blocks(tokens: list[Token]) -> list[Token]:
    """Return the tokens that open a top-level block."""
    return [token for token in tokens if token.level == 0 and token.nesting >= 0]


def _start(block: Token) -> int:
    return block.map[0] if block.map else 0


def _last_item(tokens: list[Token], block: Token) -> int:
    """Return the line on which the last item of a final list starts."""
    if block.type not in LISTS:
        return 0
    items = [one for one in tokens if one.level == 1 and one.type == "list_item_open"]
    first = _start(block)
    starts = [_start(item) for item in items if _start(item) >= first]
    return starts[-1] if starts else 0


def _code_lines(parts: list[OutputPart]) -> int:
    """Return how many lines of code the last part shows."""
    code = parts[-1].content if parts else None
    return code.end - code.first if isinstance(code, CodeLines) else 0
