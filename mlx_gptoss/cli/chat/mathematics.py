r"""LaTeX's formulas as Unicode text: `\frac{a}{b} \le x^2` becomes `a/b ≤ x²`.

    readable(r"\sum_{i=1}^{n} i = \frac{n(n+1)}{2}")     # ∑ᵢ₌₁ⁿ i = (n(n+1))/2

Letters and digits are never dropped; a command without a known meaning is left as
written. Matrices are written in one line, `[1 2; 3 4]`; rows of equations on one each.
Knows formulas, not where they begin in a text. pylatexenc 2.11 is not used because it
drops the brackets that a formula needs in one line: `\frac{a+b}{c}` becomes `a+b/c`.
"""

# ruff: noqa: RUF001 - characters of mathematics look like others

import re
import unicodedata
from collections.abc import Mapping

from mlx_gptoss.cli.chat import math_symbols as symbols

TOKEN = re.compile(r"\\[A-Za-z]+\*?\s*|\\.|\s+|.", re.DOTALL)
DEEPEST = 60  # levels of groups; a formula with more is left as written
# What needs no brackets below a line of a fraction or under a root, and above one.
FACTOR = r"(?:\d+(?:\.\d+)?|√?[^\W\d_][⁰¹²³⁴⁵⁶⁷⁸⁹ⁿᵢⱼₙ₀₁₂₃₄₅₆₇₈₉′\u0300-\u036f\u20d7]*)"
SIMPLE = re.compile(rf"[d∂]?{FACTOR}|[^\W\d_]?\([^()]*\)|.")
PRODUCT = re.compile(rf"{FACTOR}+(?:\([^()]*\))*|\([^()]*\)|.")
GAPS = re.compile(r"(?<=[(\[⌊⌈⟨]) +| +(?=[)\]⌋⌉⟩,;])")
FRACTION = ("frac", "dfrac", "tfrac", "cfrac")
BINOMIAL = ("binom", "dbinom", "tbinom")
ABOVE = ("overset", "stackrel")
ROW, CELL = "\n", "\t"  # between rows and cells, until they are joined


def readable(formula: str) -> str:
    """Return a formula of LaTeX as text, of one or more lines."""
    try:
        text = _Reader(formula).until()
    except RecursionError:
        return formula
    lines = (" ".join(line.replace(CELL, " ").split()) for line in text.split(ROW))
    return "\n".join(GAPS.sub("", line) for line in lines if line)


class _Reader:
    """Reads a formula, token by token."""

    def __init__(self, formula: str) -> None:
        self._tokens: list[str] = TOKEN.findall(formula)
        self._next = 0
        self._depth = 0

    def until(self, *ends: str) -> str:
        r"""Read up to one of the tokens `ends`, or to the end of the formula."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise RecursionError
        found = ""
        while self._next < len(self._tokens):
            token = self._take()
            if token in ends:
                break
            found += self._text(token)
        self._depth -= 1
        return found

    def _take(self) -> str:
        self._next += 1
        return self._tokens[self._next - 1]

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _skip_spaces(self) -> None:
        while self._peek().isspace():
            self._next += 1

    def _text(self, token: str) -> str:
        if token == "{":
            return self.until("}")
        if token == "}":  # without an opening one
            return ""
        if token == "^":
            return _script(self._argument(), symbols.SUPERSCRIPTS, "^")
        if token == "_":
            return _script(self._argument(), symbols.SUBSCRIPTS, "_")
        if token == "&":
            return CELL
        if token == "'":
            return "′"
        if token == "~" or token.isspace():
            return " "
        if token == "\\\\":
            return ROW
        if token.startswith("\\") and len(token) > 1:
            return self._command(token)
        return token

    def _argument(self) -> str:
        """Read a group, or one token."""
        self._skip_spaces()
        return self._text(self._take()) if self._peek() else ""

    def _option(self) -> str:
        """Read what stands in brackets, if anything does."""
        self._skip_spaces()
        if self._peek() != "[":
            return ""
        self._next += 1
        return self.until("]")

    def _command(self, token: str) -> str:
        name = token[1:].strip().removesuffix("*")
        if name in symbols.LETTERS:
            return symbols.LETTERS[name]
        if name in symbols.INFIX:
            return f" {symbols.INFIX[name]} "
        if name in symbols.OPERATORS:
            return self._with_limits(symbols.OPERATORS[name])
        if name in symbols.FUNCTIONS:
            return self._with_limits(name)
        if name in symbols.SPACES:
            return symbols.SPACES[name]
        if name in symbols.TEXTS:
            return self._argument()
        if name in symbols.ALPHABETS:
            return _letters(self._argument(), *symbols.ALPHABETS[name])
        if name in symbols.ACCENTS:
            return _accented(self._argument(), name)
        return self._construct(name, token)

    def _construct(self, name: str, token: str) -> str:
        """Read a command with arguments, or one that is not known."""
        if name in FRACTION:
            return _fraction(self._argument(), self._argument())
        if name in BINOMIAL:
            return f"({self._argument()} choose {self._argument()})"
        if name == "sqrt":
            return _root(self._option(), self._argument())
        if name in ABOVE:
            above, base = self._argument(), self._argument()
            return base + _script(above, symbols.SUPERSCRIPTS, "^")
        if name == "underset":
            below, base = self._argument(), self._argument()
            return base + _script(below, symbols.SUBSCRIPTS, "_")
        if name == "not":
            negated = self._argument().strip()
            return f" {symbols.NEGATED.get(negated, negated + chr(0x338))} "
        if name == "pmod":
            return f" (mod {self._argument()})"
        if name == "tag":
            return f"  ({self._argument()})"
        if name == "textcolor":
            self._argument()
            return self._argument()
        if name == "begin":
            return self._environment()
        return self._dropped(name, token)

    def _dropped(self, name: str, token: str) -> str:
        if name in symbols.DROPPED:
            self._skip_spaces()
            if self._peek() == "." and name in ("left", "right", "middle"):
                self._next += 1  # no bracket
            return ""
        if name in symbols.DROPPED_WITH_ARGUMENT:
            self._argument()
            return ""
        if name == "end":  # of an environment that has no beginning
            self._argument()
            return ""
        if not name.isalpha():
            return name  # `\{`, `\%`, `\_`
        while self._peek() == "{":  # unknown: as it is written
            self._next += 1
            token = f"{token.rstrip()}{{{self.until('}')}}}"
        return token

    def _with_limits(self, name: str) -> str:
        """Read the limits of an operator; a space parts it from what follows."""
        found = name
        while True:
            self._skip_spaces()
            if self._peek() not in ("^", "_"):
                break
            found += self._text(self._take())
        follows = self._peek()
        return found if not follows or follows in "([{}),.;&" else f"{found} "

    def _environment(self) -> str:
        name = self._argument().removesuffix("*")
        if name == "array":
            self._argument()  # the alignment of its columns
        body = ""
        while self._peek():
            token = self._take()
            if token.strip() == "\\end":
                self._argument()
                break
            body += self._text(token)
        if name not in symbols.BRACKETS:
            return body
        opening, closing = symbols.BRACKETS[name]
        rows = [
            " ".join(cell.strip() for cell in row.split(CELL))
            for row in body.split(ROW)
            if row.strip()
        ]
        return f"{opening}{'; '.join(rows)}{closing}"


def _script(text: str, known: Mapping[str, str], mark: str) -> str:
    """Raise or lower a text, or mark it where Unicode has no such characters."""
    text = text.strip()
    tight = re.sub(r"\s*([=+<>→∈-])\s*", r"\1", text)
    if all(letter in known for letter in tight):
        return "".join(known[letter] for letter in tight)
    return f"{mark}{text}" if len(text) == 1 else f"{mark}({text})"


def _fraction(above: str, below: str) -> str:
    above, below = above.strip(), below.strip()
    if known := symbols.FRACTIONS.get((above, below)):
        return known
    over = above if PRODUCT.fullmatch(above) else _operand(above)
    return f"{over}/{_operand(below)}" if above or below else ""


def _root(degree: str, text: str) -> str:
    degree = degree.strip()
    sign = symbols.ROOTS.get(degree)
    if sign is None:
        sign = _script(degree, symbols.SUPERSCRIPTS, "^") + "√"
    return f"{sign}{_operand(text.strip())}"


def _operand(text: str) -> str:
    """Return a text in brackets, unless it is a number, a name, or bracketed."""
    return text if not text or SIMPLE.fullmatch(text) else f"({text})"


def _letters(text: str, *alphabets: str) -> str:
    return "".join(_letter(letter, alphabets) for letter in text)


def _letter(letter: str, alphabets: tuple[str, ...]) -> str:
    """Return a letter of one of Unicode's alphabets, or the letter itself."""
    case = "CAPITAL" if letter.isupper() else "SMALL"
    if not (letter.isascii() and letter.isalpha()):
        return letter
    for alphabet in alphabets:
        try:
            return unicodedata.lookup(f"{alphabet} {case} {letter.upper()}")
        except KeyError:
            continue
    return letter


def _accented(text: str, name: str) -> str:
    text, accent = text.strip(), symbols.ACCENTS[name]
    if len(text) == 1:
        return unicodedata.normalize("NFC", text + accent)
    if name in symbols.EACH:
        return "".join(letter + accent for letter in text)
    return f"{name}({text})"
