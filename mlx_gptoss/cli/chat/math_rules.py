r"""Formulas in Markdown: `\( \)`, `\[ \]`, `$ $` and `$$ $$`, as rules of the parser.

Their tokens hold readable text; `meta["source"]` is the formula as written. A `$` that
is probably money or the name of a variable is left alone.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from mlx_gptoss.cli.chat.mathematics import readable

INLINE, BLOCK = "math_inline", "math_block"
TAG = "math"  # of inline formulas
SOURCE = "source"  # key of `meta`
ENDS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
DISPLAYED = ("\\[", "$$")
DOLLAR = "$"
# A formula between single dollars has one of these, or is a short name.
MATHEMATICAL = re.compile(r"[\\^_{}=<>+*/|]|\A[^\W\d_]\w{0,2}(?:\([^\W\d_]\))?\Z")
LONGEST = 500  # characters between single dollars
CODE_INDENT = 4  # columns


def add_mathematics(parser: MarkdownIt) -> None:
    """Make a parser understand formulas."""
    parser.inline.ruler.before("escape", INLINE, _inline)
    interrupted = ["paragraph", "reference", "blockquote", "list"]
    parser.block.ruler.before("fence", BLOCK, _block, {"alt": interrupted})


def _inline(state: StateInline, silent: bool) -> bool:
    opening = state.src[state.pos : state.pos + 2]
    end = -1
    if opening in ENDS:
        end = state.src.find(ENDS[opening], state.pos + 2)
    elif opening[:1] == DOLLAR and _opens(state.src, state.pos):
        opening = DOLLAR
        end = _end_of_dollars(state.src, state.pos)
    if end < 0:
        return False
    closing = len(opening)
    if not silent:
        token = state.push(INLINE, TAG, 0)
        source = state.src[state.pos + closing : end]
        token.content = " ".join(readable(source).split("\n"))
        token.meta = {SOURCE: source}
    state.pos = end + closing
    return True


def _opens(text: str, place: int) -> bool:
    """Say whether a dollar may open a formula: `a$b` and `$ b` do not."""
    before = text[place - 1] if place else " "
    after = text[place + 1 : place + 2]
    return not (before.isalnum() or before == "\\") and bool(after.strip())


def _end_of_dollars(text: str, start: int) -> int:
    """Return the place of the closing dollar, or -1 if it closes no formula."""
    end = text.find(DOLLAR, start + 1)
    inside, after = text[start + 1 : end], text[end + 1 : end + 2]
    if end < 0 or end - start > LONGEST or inside[-1:].isspace() or inside[-1:] == "\\":
        return -1
    if after.isalnum() or not MATHEMATICAL.search(inside):
        return -1
    return end


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take a formula that begins a line: up to its end, or to a blank line."""
    if state.sCount[start] - state.blkIndent >= CODE_INDENT:
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    opening = first[:2]
    if opening not in DISPLAYED:
        return False
    lines = [first[2:]]
    closing = ENDS[opening]
    if closing in lines[0] and lines[0].partition(closing)[2].strip():
        return False  # text follows on its line
    if silent:
        return True
    line = start + 1
    while closing not in lines[-1] and line < end and not state.isEmpty(line):
        if state.sCount[line] < state.blkIndent:
            break  # the end of a list or quotation around it
        lines.append(
            state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
        )
        line += 1
    source, _, after = "\n".join(lines).partition(closing)
    token = state.push(BLOCK, "", 0)
    token.block = True
    token.content = "\n".join(filter(None, (readable(source), after.strip())))
    token.meta = {SOURCE: f"{source} {after}"}
    token.map = [start, line]
    state.line = line
    return True
