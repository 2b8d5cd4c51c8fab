"""Rules of a grammar as plain values, and the Lark that lets through the same texts.

The library's lexer takes the longest match where a rule allows any. One terminal may
therefore stand for several characters only where nothing follows it: a grammar without
recursion is one terminal, and of any other each character is a terminal of its own,
which is exact and slower. Knows no notation but Lark.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter


@dataclass(frozen=True)
class Chars:
    """One character, by a regular expression."""

    pattern: str


@dataclass(frozen=True)
class Ref:
    """Another rule, by its name."""

    name: str


@dataclass(frozen=True)
class Sequenced:
    """Parts that follow each other; without parts, the empty text."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Choice:
    """One of several."""

    options: "tuple[Node, ...]"


@dataclass(frozen=True)
class Repeated:
    """A part several times; without end where `most` is None."""

    part: "Node"
    least: int
    most: int | None


Node = Chars | Ref | Sequenced | Choice | Repeated


Rules = Mapping[str, Node]


def lark_of(rules: Rules, root: str) -> str:
    """Write rules in Lark, which begins at `start`."""
    head = "R" if is_regular(rules) else "r"  # large letters: a terminal
    names = {name: f"{head}{number}" for number, name in enumerate(rules)}
    lines = [f"{names[name]}: {written(body, names)}" for name, body in rules.items()]
    return "\n".join([f"start: {names[root]}", *lines, ""])


def ending(rules: Rules) -> dict[str, Node]:
    """Leave out what never comes to an end, whatever is written."""
    users: dict[str, set[str]] = {}
    for name, body in rules.items():
        for other in refs(body):
            users.setdefault(other, set()).add(name)
    done: set[str] = set()
    left = list(rules)
    while left:  # a rule is looked at again when one that it names is done
        name = left.pop()
        if name not in done and ends(rules[name], done):
            done.add(name)
            left += users.get(name, ())
    found = {name: pruned(rules[name], done) for name in rules if name in done}
    return {name: body for name, body in found.items() if body is not None}


def ends(node: Node, done: Set[str]) -> bool:
    """Whether a part comes to an end, if the rules that are `done` do."""
    if isinstance(node, Ref):
        return node.name in done
    if isinstance(node, Repeated):
        return not node.least or ends(node.part, done)
    if isinstance(node, Choice):
        return any(ends(one, done) for one in node.options)
    return all(ends(one, done) for one in inside(node))


def pruned(node: Node, done: Set[str]) -> Node | None:
    """A part without the options that name rules other than those `done`."""
    if isinstance(node, Ref):
        return node if node.name in done else None
    if isinstance(node, Repeated):
        part = pruned(node.part, done)
        if part is None:
            return None if node.least else Sequenced(())
        return Repeated(part, node.least, node.most)
    if isinstance(node, Sequenced):
        parts = [pruned(one, done) for one in node.parts]
        whole = tuple(one for one in parts if one is not None)
        return Sequenced(whole) if len(whole) == len(parts) else None
    if isinstance(node, Choice):
        options = [pruned(one, done) for one in node.options]
        left = tuple(one for one in options if one is not None)
        return Choice(left) if left else None
    return node


def straight(name: str, body: Node) -> Node:
    """A rule that repeats itself at its end, or its beginning, as a repetition.

    `a ::= "x" a | "y"` is `"x"* "y"`, and `a ::= a "x" | "y"` is `"y" "x"*`.
    """
    options = body.options if isinstance(body, Choice) else (body,)
    for last in (True, False):
        again, others = [], []
        for option in options:
            parts = option.parts if isinstance(option, Sequenced) else (option,)
            edge = (parts[-1:] if last else parts[:1]) == (Ref(name),)
            rest = Sequenced(parts[:-1] if last else parts[1:]) if edge else option
            (again if edge else others).append(rest)
        free = all(name not in refs(one) for one in [*again, *others])
        if again and others and free:
            many, end = Repeated(Choice(tuple(again)), 0, None), Choice(tuple(others))
            return Sequenced((many, end) if last else (end, many))
    return body


def refs(node: Node) -> Iterator[str]:
    """The rules that a part names."""
    if isinstance(node, Ref):
        yield node.name
    for one in inside(node):
        yield from refs(one)


def inside(node: Node) -> Sequence[Node]:
    if isinstance(node, Sequenced):
        return node.parts
    if isinstance(node, Choice):
        return node.options
    return (node.part,) if isinstance(node, Repeated) else ()


def is_regular(rules: Rules) -> bool:
    """Whether no rule leads back to itself."""
    try:
        TopologicalSorter(
            {name: set(refs(one)) for name, one in rules.items()}
        ).prepare()
    except CycleError:
        return False
    return True


def code(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"


def written(node: Node, names: Mapping[str, str]) -> str:
    """Write a part in Lark."""
    if isinstance(node, Chars):
        return f"/{node.pattern}/"
    if isinstance(node, Ref):
        return names[node.name]
    if isinstance(node, Sequenced):
        return " ".join(written(one, names) for one in node.parts) or '""'
    if isinstance(node, Choice):
        return f"({' | '.join(written(one, names) for one in node.options)})"
    most = "" if node.most is None else node.most
    return f"({written(node.part, names)}){{{node.least},{most}}}"
