r"""JSON schemas as grammars, whose objects take their fields in any order or in theirs.

A union of shapes becomes a rule with an alternative for each. An object in any order
remembers which fields have come (the library's parametric rules, a bit for each):

    v1: OPEN v1first CLOSE | EMPTY
    v1first: T0 COLON v2 v1rest::0x1 | T1 COLON v3 v1rest::0x2
    v1rest::_: "" | COMMA T0 COLON v2 v1rest::set_bit(0) %if bit_clear(0) | ...

Strings with a pattern or a format, and multiples of a number, are left to the library
(`%json`); white space is in the marks between values. Where nothing fits, nothing is
offered: a field whose schema allows no value cannot come. Knows no vocabulary.
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
    MOST_FIELDS,
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

DEEPEST = 64  # objects and lists around a part of a schema; those within are any
REMARKS = frozenset(  # keys that bind nothing
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
    """A grammar in Lark; `freed` are the fields and keywords that it does not keep.

    It is `exact` if all that it lets through is what the schema allows. `lark` is None
    for a schema that allows nothing.
    """

    lark: str | None
    unenforced: tuple[tuple[str, str], ...]
    exact: bool


def write_grammar(
    schema: Schema,
    refuses: UnsupportedReason,
    *,
    ordered: bool = False,
    drop_contradictions: bool = False,
) -> LarkGrammar:
    """Write the grammar of a schema.

    `refuses` says why the library cannot keep a schema of its own kind, or None. With
    `forgiving`, what contradicts is left out. Raises OverflowError for a schema whose
    grammar would be too large.
    """
    writer = _Writer(schema, refuses, ordered=ordered, forgiving=drop_contradictions)
    lark = writer.write()
    freed = tuple(writer.unions.unenforced)
    return LarkGrammar(lark, freed, writer.is_exact and not freed)


class _Writer:
    def __init__(
        self,
        root: Schema,
        refuses: UnsupportedReason,
        *,
        ordered: bool,
        forgiving: bool,
    ) -> None:
        self.unions = Unions(root, forgiving=forgiving)
        self._exact = True
        self._root = root
        self._ordered = ordered
        self._forgiving = forgiving
        self._rules = GrammarBuilder(f"{terminals.HEAD}NUMBER: {number_terminal()}\n")
        self._names: dict[str, str] = {}  # of rules, by what they write
        self._scalars = Scalars(
            self._rules, refuses, self.unions.note_unenforced, forgiving=forgiving
        )
        self._left: deque[tuple[str, Schema, str]] = deque()

    @property
    def is_exact(self) -> bool:
        return self._exact and self._scalars.exact

    def write(self) -> str | None:
        start = self._value(self._root, "")
        while self._left:
            name, schema, where = self._left.popleft()
            self._union(name, self.unions.union(schema, where), where)
        return self._rules.to_lark(start)

    def _value(self, schema: Schema, where: str) -> str:
        """The name of a schema's rule, which will be written."""
        if isinstance(schema, Mapping):
            schema = {k: v for k, v in schema.items() if k not in REMARKS}
        if schema is True or schema == {}:
            return self._any()
        key = json.dumps(schema)
        if key not in self._names:
            self._names[key] = self._rules.new_name()
            self._left.append((self._names[key], schema, where))
        return self._names[key]

    def _any(self) -> str:
        """The name of the rule for every value."""
        if ANY not in self._names:
            self._names[ANY] = ANY
            for text in ANYTHING:
                self._rules.add(ANY, text)
        return ANY

    def _union(self, name: str, shapes: Sequence[ValueSet], where: str) -> None:
        """Write a rule with an alternative for each shape."""
        if is_everything(shapes):
            self._rules.add(name, self._any(), [ANY])
            return
        texts = []
        for shape in shapes:
            if isinstance(shape, Constant) and isinstance(shape.value, str):
                texts.append(shape.value)
                continue
            for text, needs in self._ways(shape, where):
                self._rules.add(name, text, needs)
        if texts:
            self._rules.add(
                name, self._rules.terminal(terminals.string_terminal(texts))
            )

    def _ways(self, shape: ValueSet, where: str) -> Iterable[tuple[str, Sequence[str]]]:
        """The alternatives of a shape, and the rules that each needs."""
        if isinstance(shape, Constant):
            if (text := self._scalars.long_number(shape.value)) is not None:
                yield text, ()
                return
            shape = constant_set(shape.value)
        if isinstance(shape, Constant):
            yield terminals.literal_terminal(shape.value), ()
        elif isinstance(shape, Number):
            yield from ((text, ()) for text in self._scalars.number(shape, where))
        elif isinstance(shape, Text):
            yield from ((text, ()) for text in self._scalars.text(shape, where))
        else:
            rule = self._container(shape, where)
            yield rule, (rule,)

    def _container(self, shape: Array | Object, where: str) -> str:
        key = repr(shape)
        if key not in self._names:
            self._names[key] = self._rules.new_name()
            if isinstance(shape, Object):
                self._object(self._names[key], shape, where)
            else:
                self._array(self._names[key], shape, where)
        return self._names[key]

    def _object(self, name: str, shape: Object, where: str) -> None:
        if self._forgiving:
            possible = [
                name
                for name in shape.required
                if self.unions.union(shape.schema_of(name), where)
            ]
            if len(possible) < len(shape.required):
                self.unions.note_unenforced(where, "required")
            shape = replace(shape, required=tuple(possible))
        names = dict.fromkeys([*shape.fields, *shape.required])
        pairs = {
            field: FieldRule(
                self._rules.terminal(terminals.string_terminal([field])),
                self._value(shape.schema_of(field), f"{where}.{field}".lstrip(".")),
            )
            for field in names
        }
        fields = ObjectFields(
            pairs,
            shape.required,
            list(self._others(shape, names, where)),
            shape.least,
            shape.most,
        )
        ordered = self._ordered or len(pairs) > MOST_FIELDS
        if not fields.countable(ordered=ordered):
            if shape.most is not None:
                self.unions.note_unenforced(where, "maxProperties")
            if fields.least_open > 1 or (fields.least_open and shape.most is not None):
                self.unions.note_unenforced(where, "minProperties")
            least = min(shape.least, 1)
            fields = replace(fields, least=least, most=None)
        (in_order if ordered else in_any_order)(self._rules, name, fields)

    def _others(
        self, shape: Object, names: Iterable[str], where: str
    ) -> Iterable[FieldRule]:
        """What may come beside the named fields of an object."""
        for pattern, schema in shape.patterns.items():
            own = {"type": "string", "pattern": pattern}
            reason = self._scalars.unsupported_reason(own)
            if reason is None:
                text = self._scalars.library_rule(own)
            else:
                text = self._other(names)
                self.unions.note_unenforced(where, "patternProperties")
            yield FieldRule(text, self._value(schema, where))
            named = any(pattern_matches(pattern, name) for name in names)
            if named or len(shape.patterns) > 1 or shape.others is not False:
                self._exact = False  # a name may match two, and takes either way
        if shape.others is not False:
            yield FieldRule(self._other(names), self._value(shape.others, where))

    def _other(self, names: Iterable[str]) -> str:
        """The terminal of a name that is none of `names`."""
        if not names:
            return "STRING"
        return self._rules.terminal(f"NAME & ~({terminals.string_terminal(names)})")

    def _array(self, name: str, shape: Array, where: str) -> None:
        prefix = shape.prefix if shape.most is None else shape.prefix[: shape.most]
        item = self._value(shape.items, where)
        first = [self._value(one, where) for one in prefix]
        write_array(self._rules, name, item, first, shape.least, shape.most)


def constant_set(value: Any) -> ValueSet:
    """The shape that only this value has; of true, false and null the constant."""
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
