"""A JSON schema as a union of shapes: `$ref`, `allOf`, `anyOf`, `oneOf`, `enum` read.

    unions = Unions(schema)
    unions.of({"$ref": "#/$defs/name"}, "name")     # [Text(least=1), NULL]
    unions.freed                                    # {("name", "not")}

Every value that a schema allows has one of its shapes. A keyword that cannot be kept,
or that makes no sense, is left out and named in `freed`, behind the field it binds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import Any

from mlx_gptoss.harmony.constrain.schema.intersect import intersect
from mlx_gptoss.harmony.constrain.schema.keywords import Keywords
from mlx_gptoss.harmony.constrain.schema.value_sets import (
    ALL,
    NULL,
    Constant,
    Object,
    Text,
    ValueSet,
    is_everything,
    is_member,
)
from mlx_gptoss.harmony.references import References, Schema

MOST_SHAPES = 128  # of one schema that are no constants
MOST_STEPS = 10_000  # schemas that are read, beside each of the document READINGS times
READINGS = 4
MOST_REFERENCES = 64  # in a chain
APPLIED = ("$ref", "allOf", "anyOf", "oneOf")


class Unions:
    """Reads the schemas of one document, and remembers what it could not keep.

    With `forgiving`, what contradicts is left out, too: where the schema as it stands
    allows nothing. Raises OverflowError for a document that refers too much.
    """

    def __init__(self, root: Schema, *, forgiving: bool = False) -> None:
        self.unenforced: dict[tuple[str, str], None] = {}  # a set that keeps its order
        self._root = root
        self._forgiving = forgiving
        self._steps = 0
        self._references = References(root)
        self._most_steps = MOST_STEPS + READINGS * self._references.size

    def union(self, schema: Schema, where: str) -> list[ValueSet]:
        """The union of a schema; `where` names the field that it binds.

        Of constants that are all of another type than the schema says, what the model
        is not shown is left out: it is shown the type, or the one constant.
        """
        if isinstance(schema, Mapping):
            for keyword, hidden in (("const", "type"), ("enum", "enum")):
                if self._is_mistyped(schema, keyword):
                    self.note_unenforced(where, hidden)
                    schema = {k: one for k, one in schema.items() if k != hidden}
        return self._of(schema, where)

    def _is_mistyped(self, schema: Mapping[str, Any], keyword: str) -> bool:
        """Whether the type of a schema leaves none of its constants."""
        if "type" not in schema or keyword not in schema:
            return False
        return not self._of({"type": schema["type"], keyword: schema[keyword]})

    def _of(
        self, schema: Schema, where: str | None = None, seen: tuple[str, ...] = ()
    ) -> list[ValueSet]:
        """The same; without `where` nothing is noted. `seen` are references around."""
        self._steps += 1
        if self._steps > self._most_steps:
            raise OverflowError("the schema refers to too much")
        if isinstance(schema, bool):
            return [*ALL] if schema else []
        if not isinstance(schema, Mapping):
            self.note_unenforced(where, "schema")
            return [*ALL]
        keywords = Keywords(
            schema, lambda keyword: self.note_unenforced(where, keyword)
        )
        found = keywords.value_sets(forgiving=self._forgiving)
        for keyword in ("const", "enum"):
            if keyword in schema:
                found = self._meeting(found, self._values(schema, keyword, where))
        if "propertyNames" in schema:
            found = self._named(found, schema["propertyNames"], where)
        for keyword in APPLIED:
            for union in self._applied(schema, keyword, where, seen):
                met = self._meeting(found, union)
                lost = self._forgiving and found and not met
                if lost or len(met) - _constants(met) > MOST_SHAPES:
                    self.note_unenforced(where, keyword)
                else:
                    found = met
        if schema.get("nullable") is True and NULL not in found:
            found.append(NULL)
        return found

    def note_unenforced(self, where: str | None, keyword: str) -> None:
        """Note that a keyword is not kept."""
        if where is not None:
            self.unenforced[where, keyword] = None

    def allows(self, value: Any, schema: Schema) -> bool:
        """Whether a schema allows a value, as far as its shapes say it."""
        return any(is_member(value, shape, self.allows) for shape in self._of(schema))

    def _values(
        self, schema: Mapping[str, Any], keyword: str, where: str | None
    ) -> list[ValueSet]:
        given = schema[keyword]
        values = [given] if keyword == "const" else given
        if not isinstance(values, list | tuple) or not values:
            self.note_unenforced(where, keyword)
            return [*ALL]
        finite = [one for one in values if not _is_endless(one)]
        if len(finite) < len(values):
            self.note_unenforced(where, keyword)
        return [*dict.fromkeys(map(Constant.of, finite))] if finite else [*ALL]

    def _named(
        self, shapes: Sequence[ValueSet], schema: Schema, where: str | None
    ) -> list[ValueSet]:
        """Shapes whose objects have the names that a schema allows."""
        names = [one for one in self._of(schema) if isinstance(one, Constant | Text)]
        if Text() in names:
            return [*shapes]
        if any(isinstance(one, Text) for one in names):
            self.note_unenforced(where, "propertyNames")
            return [*shapes]
        texts = [one.value for one in names if isinstance(one, Constant)]
        return [
            replace(
                shape,
                fields={
                    name: shape.schema_of(name)
                    for name in texts
                    if isinstance(name, str)
                },
                others=False,
                patterns={},
            )
            if isinstance(shape, Object)
            else shape
            for shape in shapes
        ]

    def _meeting(
        self, ones: Sequence[ValueSet], twos: Sequence[ValueSet]
    ) -> list[ValueSet]:
        """What has a shape of both unions."""
        if is_everything(twos):
            return [*ones]
        known = {one for one in ones if isinstance(one, Constant)}
        others = [one for one in ones if not isinstance(one, Constant)]
        found: dict[Any, ValueSet] = {}
        for two in twos:
            if isinstance(two, Constant) and two in known:
                found[two] = two
                continue
            pairs = others if isinstance(two, Constant) else ones
            for one in pairs:
                met = intersect(one, two, self.allows)
                if isinstance(met, Constant):
                    found[met] = met
                elif met is not None and met not in found.values():
                    found[len(found), "shape"] = met
        return [*found.values()]

    def _applied(
        self,
        schema: Mapping[str, Any],
        keyword: str,
        where: str | None,
        seen: tuple[str, ...],
    ) -> Iterable[list[ValueSet]]:
        """The unions that a keyword brings, of which each must be met."""
        if keyword not in schema:
            return
        given = schema[keyword]
        if keyword == "$ref":
            yield self._referred(given, where, seen)
            return
        if not isinstance(given, list | tuple) or not given:
            self.note_unenforced(where, keyword)
            return
        parts = [self._of(one, where, seen) for one in given]
        if keyword == "allOf":
            yield from parts
            return
        if keyword == "oneOf" and not self._are_disjoint(parts):
            self.note_unenforced(where, keyword)
        yield _joined(parts)

    def _referred(
        self, where_to: Any, where: str | None, seen: tuple[str, ...]
    ) -> list[ValueSet]:
        if where_to in seen:  # a circle adds nothing to a union
            return []
        found = self._references.find(where_to)
        if found is None or len(seen) >= MOST_REFERENCES:
            self.note_unenforced(where, "$ref")
            return [*ALL]
        return self._of(found, where, (*seen, where_to))

    def _are_disjoint(self, unions: Sequence[Sequence[ValueSet]]) -> bool:
        """Whether no value has shapes of two unions, as far as is easily seen."""
        fields = _Fields(self._of)
        others: list[ValueSet] = []
        constants: set[ValueSet] = set()
        for union in unions:
            values = {shape for shape in union if isinstance(shape, Constant)}
            own = [shape for shape in union if not isinstance(shape, Constant)]
            pairs = chain(product(others, union), product(own, constants))
            if constants & values or not all(
                self._apart(one, two, fields) for one, two in pairs
            ):
                return False
            others += own
            constants |= values
        return True

    def _apart(self, one: ValueSet, two: ValueSet, fields: "_Fields") -> bool:
        if isinstance(one, Object) and isinstance(two, Object):
            for name in dict.fromkeys(one.required + two.required):
                if not self._meeting(fields.of(one, name), fields.of(two, name)):
                    return True
        return intersect(one, two, self.allows) is None


class _Fields:
    """The unions of the fields of objects, each read once."""

    def __init__(self, read: Callable[[Schema], list[ValueSet]]) -> None:
        self._read = read
        self._known: dict[tuple[int, str], list[ValueSet]] = {}

    def of(self, shape: Object, name: str) -> list[ValueSet]:
        key = (id(shape), name)
        if key not in self._known:
            self._known[key] = self._read(shape.schema_of(name))
        return self._known[key]


def _joined(unions: Iterable[Iterable[ValueSet]]) -> list[ValueSet]:
    found: list[ValueSet] = []
    known: set[Constant] = set()
    for union in unions:
        for shape in union:
            if isinstance(shape, Constant):
                if shape not in known:
                    known.add(shape)
                    found.append(shape)
            elif shape not in found:
                found.append(shape)
    return found


def _is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _constants(union: Iterable[ValueSet]) -> int:
    return sum(isinstance(shape, Constant) for shape in union)
