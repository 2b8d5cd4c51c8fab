"""Production rules as plain values, and an equivalent grammar in Lark.

The library's lexer takes the longest match. A terminal may therefore span several
characters only where nothing follows it: a grammar without recursion becomes a single
terminal; in any other each character is a terminal of its own, which is exact but
slower. Knows no notation but Lark.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter


@dataclass(frozen=True)
class CharacterClass:
    """One character, as a regular expression."""

    pattern: str


@dataclass(frozen=True)
class RuleReference:
    """Another rule, by name."""

    name: str


@dataclass(frozen=True)
class Concatenation:
    """Parts in sequence; without parts, the empty text."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Alternation:
    """One of several."""

    options: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Repetition:
    """A part `least` to `most` times; unbounded if `most` is None."""

    part: "Expression"
    least: int
    most: int | None


Expression = CharacterClass | RuleReference | Concatenation | Alternation | Repetition
RuleSet = Mapping[str, Expression]


def write_lark(rules: RuleSet, root: str) -> str:
    """Write rules in Lark, whose start symbol is `start`."""
    head = "R" if is_regular(rules) else "r"  # upper case: a terminal
    names = {name: f"{head}{number}" for number, name in enumerate(rules)}
    lines = [
        f"{names[name]}: {write_expression(body, names)}"
        for name, body in rules.items()
    ]
    return "\n".join([f"start: {names[root]}", *lines, ""])


def productive_rules(rules: RuleSet) -> dict[str, Expression]:
    """Remove unproductive rules and options: those that derive no finite text."""
    users: dict[str, set[str]] = {}
    for name, body in rules.items():
        for other in referenced_rules(body):
            users.setdefault(other, set()).add(name)
    done: set[str] = set()
    left = list(rules)
    while left:  # a rule is checked again when one that it references is done
        name = left.pop()
        if name not in done and is_productive(rules[name], done):
            done.add(name)
            left += users.get(name, ())
    found = {name: prune(rules[name], done) for name in rules if name in done}
    return {name: body for name, body in found.items() if body is not None}


def is_productive(node: Expression, done: Set[str]) -> bool:
    """Whether an expression derives a finite text, given that the rules `done` do."""
    if isinstance(node, RuleReference):
        return node.name in done
    if isinstance(node, Repetition):
        return not node.least or is_productive(node.part, done)
    if isinstance(node, Alternation):
        return any(is_productive(one, done) for one in node.options)
    return all(is_productive(one, done) for one in children(node))


def prune(node: Expression, done: Set[str]) -> Expression | None:
    """Remove the options that reference rules other than those `done`."""
    if isinstance(node, RuleReference):
        return node if node.name in done else None
    if isinstance(node, Repetition):
        part = prune(node.part, done)
        if part is None:
            return None if node.least else Concatenation(())
        return Repetition(part, node.least, node.most)
    if isinstance(node, Concatenation):
        parts = [prune(one, done) for one in node.parts]
        whole = tuple(one for one in parts if one is not None)
        return Concatenation(whole) if len(whole) == len(parts) else None
    if isinstance(node, Alternation):
        options = [prune(one, done) for one in node.options]
        left = tuple(one for one in options if one is not None)
        return Alternation(left) if left else None
    return node


def unroll_recursion(name: str, body: Expression) -> Expression:
    """Turn a rule with left or right recursion into a repetition.

    `a ::= "x" a | "y"` is `"x"* "y"`, and `a ::= a "x" | "y"` is `"y" "x"*`.
    """
    options = body.options if isinstance(body, Alternation) else (body,)
    for last in (True, False):
        again, others = [], []
        for option in options:
            parts = option.parts if isinstance(option, Concatenation) else (option,)
            edge = (parts[-1:] if last else parts[:1]) == (RuleReference(name),)
            rest = Concatenation(parts[:-1] if last else parts[1:]) if edge else option
            (again if edge else others).append(rest)
        free = all(name not in referenced_rules(one) for one in [*again, *others])
        if again and others and free:
            many, end = (
                Repetition(Alternation(tuple(again)), 0, None),
                Alternation(tuple(others)),
            )
            return Concatenation((many, end) if last else (end, many))
    return body


def referenced_rules(node: Expression) -> Iterator[str]:
    """Yield the names of the rules that an expression references."""
    if isinstance(node, RuleReference):
        yield node.name
    for one in children(node):
        yield from referenced_rules(one)


def children(node: Expression) -> Sequence[Expression]:
    if isinstance(node, Concatenation):
        return node.parts
    if isinstance(node, Alternation):
        return node.options
    return (node.part,) if isinstance(node, Repetition) else ()


def is_regular(rules: RuleSet) -> bool:
    """Whether the rules are without recursion."""
    try:
        TopologicalSorter(
            {name: set(referenced_rules(one)) for name, one in rules.items()}
        ).prepare()
    except CycleError:
        return False
    return True


def escape_character(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"


def write_expression(node: Expression, names: Mapping[str, str]) -> str:
    """Write an expression in Lark."""
    if isinstance(node, CharacterClass):
        return f"/{node.pattern}/"
    if isinstance(node, RuleReference):
        return names[node.name]
    if isinstance(node, Concatenation):
        return " ".join(write_expression(one, names) for one in node.parts) or '""'
    if isinstance(node, Alternation):
        return f"({' | '.join(write_expression(one, names) for one in node.options)})"
    most = "" if node.most is None else node.most
    return f"({write_expression(node.part, names)}){{{node.least},{most}}}"
