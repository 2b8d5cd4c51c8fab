"""Rules for the fields of one object, in any order or in the schema's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_gptoss.harmony.constrain.schema.grammar_builder import (
    GrammarBuilder,
    repeated,
)

MAX_FIELDS = 64  # bits of a rule's parameter


@dataclass(frozen=True)
class FieldRule:
    """A field: the terminal of its name, and the rule of its value."""

    text: str
    value: str

    def __str__(self) -> str:
        return f"{self.text} COLON {self.value}"


@dataclass(frozen=True)
class ObjectFields:
    """The fields of an object: `named` ones, some `required`, and `others` by pattern.

    `least` and `most` limit the number of all fields.
    """

    named: Mapping[str, FieldRule]
    required: Sequence[str]
    others: Sequence[FieldRule]
    least: int = 0
    most: int | None = None

    @property
    def needs(self) -> list[str]:
        """The rules without which the object has no text."""
        return [self.named[name].value for name in self.required]

    @property
    def least_open(self) -> int:
        """How many fields must occur beside the required ones."""
        return max(0, self.least - len(self.required))

    @property
    def counts(self) -> bool:
        """Whether the number of fields constrains more than `required` does."""
        most = self.most is not None and (
            bool(self.others) or self.most < len(self.named)
        )
        return most or self.least_open > 0

    def countable(self, *, ordered: bool) -> bool:
        """Whether the rules here can count the fields: not if both kinds may occur."""
        if not self.counts or not self.named or (not self.others and not ordered):
            return True
        return self.most is None and self.least <= 1


def in_any_order(rules: GrammarBuilder, name: str, fields: ObjectFields) -> None:
    """Write the rules of an object whose fields occur in any order, each once."""
    if not fields.named:
        _map(rules, name, fields)
        return
    order = [*fields.required, *(n for n in fields.named if n not in fields.required)]
    bits = {field: bit for bit, field in enumerate(order)}
    bounded = fields.counts and not fields.others
    first, rest = f"{name}first", f"{name}rest"
    every = f"[0:{len(order)}]"
    ends = [f"is_ones([0:{len(fields.required)}])"] if fields.required else []
    if bounded and fields.least_open:
        ends.append(f"bit_count_ge({every}, {fields.least})")
    rules.add(f"{rest}::_", '""' + _if(ends))
    if not bounded or fields.least <= len(order):
        rules.add(name, f"OPEN {first} CLOSE", [first, *fields.needs])
    if not fields.required and not fields.least:
        rules.add(name, "EMPTY")
    for field, bit in bits.items():
        pair = fields.named[field]
        room = []
        if bounded and fields.most is not None and field not in fields.required:
            left = fields.most - len(fields.required)  # for optional fields
            if left <= 0:
                continue
            room = [f"bit_count_lt([{len(fields.required)}:{len(order)}], {left})"]
        rules.add(first, f"{pair} {rest}::{1 << bit:#x}", [pair.value])
        when = _if([f"bit_clear({bit})", *room])
        rules.add(
            f"{rest}::_", f"COMMA {pair} {rest}::set_bit({bit}){when}", [pair.value]
        )
    for pair in fields.others:
        rules.add(first, f"{pair} {rest}::0x0", [pair.value])
        rules.add(f"{rest}::_", f"COMMA {pair} {rest}::_", [pair.value])


def in_order(rules: GrammarBuilder, name: str, fields: ObjectFields) -> None:
    """Write the rules of an object whose fields occur in the order of its schema."""
    names = list(fields.named)
    if not names:
        _map(rules, name, fields)
        return
    first = f"{name}first"
    behind = [f"{name}after{place}" for place in range(len(names) + 1)]
    rules.add(name, f"OPEN {first} CLOSE", [first, *fields.needs])
    if not fields.required and not fields.least:
        rules.add(name, "EMPTY")
    may_begin = True
    for place, field in enumerate(names):
        pair, rest = fields.named[field], behind[place + 1]
        if may_begin:
            rules.add(first, f"{pair} {rest}", [pair.value])
        rules.add(behind[place], f"COMMA {pair} {rest}", [pair.value])
        if field in fields.required:
            may_begin = False
        else:
            rules.add(behind[place], rest)
    rules.add(behind[-1], '""')
    for pair in fields.others:
        rules.add(behind[-1], f"COMMA {pair} {behind[-1]}", [pair.value])
        if may_begin:
            rules.add(first, f"{pair} {behind[-1]}", [pair.value])


def _map(rules: GrammarBuilder, name: str, fields: ObjectFields) -> None:
    """Write the rules of an object without named fields."""
    if fields.least == 0:
        rules.add(name, "EMPTY")
    if not fields.others or fields.most == 0:
        return
    pair = f"{name}pair"
    for other in fields.others:
        rules.add(pair, str(other), [other.value])
    rules.add(
        name,
        f"OPEN {repeated(pair, max(fields.least, 1), fields.most)} CLOSE",
        [pair],
    )


def _if(conditions: Sequence[str]) -> str:
    if not conditions:
        return ""
    found = conditions[0]
    for one in conditions[1:]:
        found = f"and({found}, {one})"
    return f" %if {found}"
