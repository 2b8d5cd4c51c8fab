r"""Write JSON schemas as Lark grammars, with fields in any order or in the schema's.

A union of value sets becomes a rule with an alternative for each. An object in any
order keeps a bit for each field that has occurred (the library's parametric rules):

    v1: OPEN v1first CLOSE | EMPTY
    v1first: T0 COLON v2 v1rest::0x1 | T1 COLON v3 v1rest::0x2
    v1rest::_: "" | COMMA T0 COLON v2 v1rest::set_bit(0) %if bit_clear(0) | ...

Strings with a pattern or a format, and multiples of a number, are left to the library
(`%json`); white space belongs to the punctuation between values. A field whose schema
allows no value cannot occur. Knows no vocabulary.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_gptoss.harmony.constrain.schema import terminals
from mlx_gptoss.harmony.constrain.schema.arrays import write_array
from mlx_gptoss.harmony.constrain.schema.grammar_builder import GrammarBuilder
from mlx_gptoss.harmony.constrain.schema.numbers import Bound, number_terminal
from mlx_gptoss.harmony.constrain.schema.objects import (
    MAX_FIELDS,
    FieldRule,
    ObjectFields,
    in_any_order,
    in_order,
)
from mlx_gptoss.harmony.constrain.schema.scalars import Scalars, UnsupportedReason
from mlx_gptoss.harmony.constrain.schema.unions import Unions
from mlx_gptoss.harmony.constrain.schema.value_sets import (
    Array,
    Constant,
    Number,
    Object,
    Text,
    ValueSet,
    decimal_range,
    is_everything,
    pattern_matches,
)
from mlx_gptoss.harmony.references import Schema

ANNOTATIONS = frozenset(  # keywords that constrain nothing
    (
        *("title", "description", "default", "examples", "deprecated", "readOnly"),
        *("writeOnly", "$comment", "$schema", "$defs", "definitions", "$id"),
    )
)
ANY = "any"
ANYTHING = (
    *("STRING", "NUMBER", '"true"', '"false"', '"null"', "EMPTY", "NONE"),
    "OPEN STRING COLON any ( COMMA STRING COLON any )* CLOSE",
    "BEGIN any ( COMMA any )* END",
)


@dataclass(frozen=True)
class LarkGrammar:
    """A grammar in Lark; `unenforced` are the fields and keywords that it ignores.

    It is `exact` if it accepts only what the schema allows. `lark` is None for a schema
    that allows nothing.
    """

    lark: str | None
    unenforced: tuple[tuple[str, str], ...]
    exact: bool


def write_grammar(
    schema: Schema,
    unsupported_reason: UnsupportedReason,
    *,
    ordered: bool = False,
    drop_contradictions: bool = False,
) -> LarkGrammar:
    """Write the grammar of a schema.

    `unsupported_reason` says why the library cannot compile a schema, or returns None.
    `drop_contradictions` ignores keywords that contradict others. Raises OverflowError
    for a schema whose grammar would be too large.
    """
    writer = _Writer(
        schema,
        unsupported_reason,
        ordered=ordered,
        drop_contradictions=drop_contradictions,
    )
    lark = writer.write()
    unenforced = tuple(writer.unions.unenforced)
    return LarkGrammar(lark, unenforced, writer.is_exact and not unenforced)


class _Writer:
    """Writes the rules of one schema breadth first; `where` is the path of a field."""

    def __init__(
        self,
        root: Schema,
        unsupported_reason: UnsupportedReason,
        *,
        ordered: bool,
        drop_contradictions: bool,
    ) -> None:
        self.unions = Unions(root, drop_contradictions=drop_contradictions)
        self._exact = True
        self._root = root
        self._ordered = ordered
        self._drop_contradictions = drop_contradictions
        self._rules = GrammarBuilder(f"{terminals.HEAD}NUMBER: {number_terminal()}\n")
        self._names: dict[str, str] = {}  # of rules, by the schema or set they write
        self._scalars = Scalars(
            self._rules,
            unsupported_reason,
            self.unions.note_unenforced,
            drop_contradictions=drop_contradictions,
        )
        self._pending: deque[tuple[str, Schema, str]] = deque()

    @property
    def is_exact(self) -> bool:
        return self._exact and self._scalars.exact

    def write(self) -> str | None:
        start = self._value(self._root, "")
        while self._pending:
            name, schema, where = self._pending.popleft()
            self._union(name, self.unions.union(schema, where), where)
        return self._rules.to_lark(start)

    def _value(self, schema: Schema, where: str) -> str:
        """Return the name of a schema's rule, which is written later."""
        if isinstance(schema, Mapping):
            schema = {k: v for k, v in schema.items() if k not in ANNOTATIONS}
        if schema is True or schema == {}:
            return self._any()
        key = json.dumps(schema)
        if key not in self._names:
            self._names[key] = self._rules.new_name()
            self._pending.append((self._names[key], schema, where))
        return self._names[key]

    def _any(self) -> str:
        """Return the name of the rule for every value."""
        if ANY not in self._names:
            self._names[ANY] = ANY
            for text in ANYTHING:
                self._rules.add(ANY, text)
        return ANY

    def _union(self, name: str, value_sets: Sequence[ValueSet], where: str) -> None:
        """Write a rule with an alternative for each value set."""
        if is_everything(value_sets):
            self._rules.add(name, self._any(), [ANY])
            return
        texts = []
        for value_set in value_sets:
            if isinstance(value_set, Constant) and isinstance(value_set.value, str):
                texts.append(value_set.value)
                continue
            for text, needs in self._alternatives(value_set, where):
                self._rules.add(name, text, needs)
        if texts:
            self._rules.add(
                name, self._rules.terminal(terminals.string_terminal(texts))
            )

    def _alternatives(
        self, value_set: ValueSet, where: str
    ) -> Iterable[tuple[str, Sequence[str]]]:
        """Yield the alternatives of a value set, and the rules that each needs."""
        if isinstance(value_set, Constant):
            if (text := self._scalars.long_number(value_set.value)) is not None:
                yield text, ()
                return
            value_set = constant_set(value_set.value)
        if isinstance(value_set, Constant):
            yield terminals.literal_terminal(value_set.value), ()
        elif isinstance(value_set, Number):
            yield from ((text, ()) for text in self._scalars.number(value_set, where))
        elif isinstance(value_set, Text):
            yield from ((text, ()) for text in self._scalars.text(value_set, where))
        else:
            rule = self._container(value_set, where)
            yield rule, (rule,)

    def _container(self, value_set: Array | Object, where: str) -> str:
        key = repr(value_set)
        if key not in self._names:
            self._names[key] = self._rules.new_name()
            if isinstance(value_set, Object):
                self._object(self._names[key], value_set, where)
            else:
                self._array(self._names[key], value_set, where)
        return self._names[key]

    def _object(self, name: str, value_set: Object, where: str) -> None:
        if self._drop_contradictions:
            possible = [
                name
                for name in value_set.required
                if self.unions.union(value_set.schema_of(name), where)
            ]
            if len(possible) < len(value_set.required):
                self.unions.note_unenforced(where, "required")
            value_set = replace(value_set, required=tuple(possible))
        names = dict.fromkeys([*value_set.fields, *value_set.required])
        pairs = {
            field: FieldRule(
                self._rules.terminal(terminals.string_terminal([field])),
                self._value(value_set.schema_of(field), f"{where}.{field}".lstrip(".")),
            )
            for field in names
        }
        fields = ObjectFields(
            pairs,
            value_set.required,
            list(self._others(value_set, names, where)),
            value_set.least,
            value_set.most,
        )
        ordered = self._ordered or len(pairs) > MAX_FIELDS
        if not fields.countable(ordered=ordered):
            if value_set.most is not None:
                self.unions.note_unenforced(where, "maxProperties")
            if fields.least_open > 1 or (
                fields.least_open and value_set.most is not None
            ):
                self.unions.note_unenforced(where, "minProperties")
            least = min(value_set.least, 1)
            fields = replace(fields, least=least, most=None)
        (in_order if ordered else in_any_order)(self._rules, name, fields)

    def _others(
        self, value_set: Object, names: Iterable[str], where: str
    ) -> Iterable[FieldRule]:
        """Yield rules for the unnamed fields of an object."""
        for pattern, schema in value_set.patterns.items():
            own = {"type": "string", "pattern": pattern}
            reason = self._scalars.unsupported_reason(own)
            if reason is None:
                text = self._scalars.library_rule(own)
            else:
                text = self._other(names)
                self.unions.note_unenforced(where, "patternProperties")
            yield FieldRule(text, self._value(schema, where))
            named = any(pattern_matches(pattern, name) for name in names)
            if named or len(value_set.patterns) > 1 or value_set.others is not False:
                self._exact = False  # a name may match two, and take either schema
        if value_set.others is not False:
            yield FieldRule(self._other(names), self._value(value_set.others, where))

    def _other(self, names: Iterable[str]) -> str:
        """Return the terminal of a name other than `names`."""
        if not names:
            return "STRING"
        return self._rules.terminal(f"NAME & ~({terminals.string_terminal(names)})")

    def _array(self, name: str, value_set: Array, where: str) -> None:
        most = value_set.most
        prefix = value_set.prefix if most is None else value_set.prefix[:most]
        item = self._value(value_set.items, where)
        first = [self._value(one, where) for one in prefix]
        write_array(self._rules, name, item, first, value_set.least, most)


def constant_set(value: Any) -> ValueSet:
    """Return the set of this one value, as an array, object or range if it can be."""
    if value is None or isinstance(value, bool):
        return Constant.of(value)
    if isinstance(value, int | float):
        low, high = map(Bound, decimal_range(value))
        return Number(low, high)
    if isinstance(value, list | tuple):
        items = tuple({"const": one} for one in value)
        return Array(len(items), len(items), items, False)
    fields = {name: {"const": one} for name, one in value.items()}
    return Object(fields, tuple(fields), False)
