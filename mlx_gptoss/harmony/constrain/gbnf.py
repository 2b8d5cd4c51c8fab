"""Convert GBNF, the grammars of llama.cpp (and XGrammar's EBNF), to Lark.

    to_lark('root ::= "yes" | "no"')       # an equivalent grammar in Lark

Parses the notation; `bnf.py` writes the rules in Lark.
"""

import re
from collections.abc import Iterator

from mlx_gptoss.harmony.constrain.bnf import (
    Alternation,
    CharacterClass,
    Concatenation,
    Expression,
    Repetition,
    RuleReference,
    escape_character,
    productive_rules,
    referenced_rules,
    unroll_recursion,
    write_lark,
)

ROOT = "root"
MAX_GROUPS = 64  # around an item
MAX_RULES = 2000
LARK = re.compile(r"(?m)^[^\S\n]*(?:%llguidance\b|start(?:\.\d+)?\s*:(?!:=))")
TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    | (?P<rule>[A-Za-z0-9_-]+(?=\s*::=))
    | (?P<name>[A-Za-z0-9_-]+)
    | (?P<literal>"(?:[^"\\]|\\.)*")
    | (?P<chars>\[(?:[^\]\\]|\\.)*\])
    | (?P<repeat>[*+?]|\{\s*\d+\s*(?:,\s*\d*\s*)?\})
    | (?P<sign>::=|[|().])""",
    re.VERBOSE | re.DOTALL,
)
CHARACTER = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|([^\\])",
    re.DOTALL,
)
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "[": "[", "]": "]"}
ESCAPED |= {"-": "-", "^": "^"}
ANY = r"[\x{0}-\x{10ffff}]"
REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def is_lark(text: str) -> bool:
    """Whether a grammar is written in Lark already."""
    return LARK.search(text) is not None


def to_lark(text: str) -> str:
    """Convert a grammar to Lark unless it is. Raises ValueError, which says where."""
    if is_lark(text):
        return text
    rules = dict(GbnfParser(text).rules())
    if len(rules) > MAX_RULES:
        raise ValueError(f"it has more than {MAX_RULES} rules")
    if ROOT not in rules:
        raise ValueError(
            f"it has no rule `{ROOT}`: GBNF begins at `{ROOT}`, Lark at `start`"
        )
    for name, body in rules.items():
        for other in referenced_rules(body):
            if other not in rules:
                raise ValueError(f"rule `{name}` names `{other}`, which is undefined")
    rules = productive_rules(
        {name: unroll_recursion(name, body) for name, body in rules.items()}
    )
    if ROOT not in rules:
        raise ValueError(
            f"rule `{ROOT}` never comes to an end: it always references itself"
        )
    return write_lark(rules, ROOT)


class GbnfParser:
    """Parses the rules of a grammar by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(tokenize(text))
        self._at = 0
        self._depth = 0

    def rules(self) -> Iterator[tuple[str, Expression]]:
        """Yield the rules with their names; a rule may span lines."""
        while self._at < len(self._tokens):
            name = self._take("rule")
            self._take("::=")
            yield name, self._choice()

    def _choice(self) -> Expression:
        options = [self._sequence()]
        while self._next == "|":
            self._take("|")
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alternation(tuple(options))

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        while self._next in ("name", "literal", "chars", ".", "("):
            parts.append(self._item())
            while self._next == "repeat":
                parts[-1] = Repetition(parts[-1], *repeat_counts(self._take("repeat")))
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _item(self) -> Expression:
        kind = self._next
        if kind == "(":
            return self._group()
        text = self._take(kind)
        if kind == "name":
            return RuleReference(text)
        if kind == "literal":
            codes = parse_characters(text[1:-1], "literal")
            return Concatenation(
                tuple(CharacterClass(f"[{escape_character(one)}]") for one, _ in codes)
            )
        return (
            CharacterClass(ANY) if kind == "." else CharacterClass(class_pattern(text))
        )

    def _group(self) -> Expression:
        self._take("(")
        self._depth += 1
        if self._depth > MAX_GROUPS:
            raise ValueError(f"groups are nested more than {MAX_GROUPS} deep")
        found = self._choice()
        self._take(")")
        self._depth -= 1
        return found

    @property
    def _next(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _take(self, kind: str) -> str:
        if self._next != kind:
            end = len(self._text)
            place = self._tokens[self._at][2] if self._next else end
            wanted = "a rule (`name ::= ...`)" if kind == "rule" else f"`{kind}`"
            raise ValueError(f"line {line_of(self._text, place)}: expected {wanted}")
        self._at += 1
        return self._tokens[self._at - 1][1]


def tokenize(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield the tokens of a grammar: kind (for a sign, the sign), text and offset."""
    at = 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"line {line_of(text, at)}: cannot read `{text[at]}`")
        kind = found.lastgroup
        if kind != "space":
            yield (found[0] if kind == "sign" else str(kind)), found[0], at
        at = found.end()


def line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def repeat_counts(text: str) -> tuple[int, int | None]:
    """Return the bounds of a repetition: `*`, `{2}`, `{2,}`, `{2,3}`."""
    if text in REPEATS:
        return REPEATS[text]
    least, comma, most = text.strip("{} \t\r\n").partition(",")
    if not comma:
        return int(least), int(least)
    return int(least), int(most) if most.strip() else None


def parse_characters(text: str, where: str) -> Iterator[tuple[str, bool]]:
    """Yield the characters of a literal or a class, and whether each was escaped."""
    for found in CHARACTER.finditer(text):
        *numbers, name, plain = found.groups()
        number = next((int(one, 16) for one in numbers if one), None)
        if number is not None:
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise ValueError(f"`{found[0]}` in a {where} is no character")
            yield chr(number), True
        elif name is not None and name not in ESCAPED:
            raise ValueError(f"`{found[0]}` in a {where} is no escape of GBNF")
        else:
            yield (ESCAPED[name] if name else plain), name is not None


def class_pattern(text: str) -> str:
    """Convert a class such as `[^a-z]` to a regular expression."""
    inner = text[1:-1]
    negated = inner.startswith("^")
    spelled = list(parse_characters(inner[negated:], "class"))
    parts: list[str] = []
    while spelled:
        low, _ = spelled.pop(0)
        if len(spelled) > 1 and spelled[0] == ("-", False):
            high, _ = spelled[1]
            del spelled[:2]
            if high < low:
                raise ValueError(f"the class `{text}` has a range that runs backwards")
            parts.append(f"{escape_character(low)}-{escape_character(high)}")
        else:
            parts.append(escape_character(low))
    if not parts:
        raise ValueError(f"the class `{text}` is empty")
    return f"[{'^' if negated else ''}{''.join(parts)}]"
