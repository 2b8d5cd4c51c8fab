"""Convert a JSON schema to a union of value sets.

    unions = Unions(schema)
    unions.union({"$ref": "#/$defs/name"}, "name")     # [Text(least=1), NULL]
    unions.unenforced                                  # {("name", "not")}

Resolves `$ref`, `allOf`, `anyOf`, `oneOf`, `const` and `enum`. Every value that a
schema allows is in one of its sets. A keyword that is malformed or that no set
expresses is ignored and noted in `unenforced`, with the path of its field.
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

MAX_SETS = 128  # of one schema, constants excepted
MIN_STEPS = 10_000  # schemas that may be visited, plus VISITS for each in the document
VISITS = 4
MAX_REFERENCES = 64  # in a chain
APPLIED = ("$ref", "allOf", "anyOf", "oneOf")


class Unions:
    """Converts the schemas of one document, and notes what is not enforced.

    `drop_contradictions` also ignores keywords without which the schema allows
    something. Raises OverflowError if references multiply the document too much.
    """

    def __init__(self, root: Schema, *, drop_contradictions: bool = False) -> None:
        self.unenforced: dict[tuple[str, str], None] = {}  # an ordered set
        self._root = root
        self._drop_contradictions = drop_contradictions
        self._steps = 0
        self._references = References(root)
        self._max_steps = MIN_STEPS + VISITS * self._references.size

    def union(self, schema: Schema, where: str) -> list[ValueSet]:
        """Return the union of a schema; `where` is the path of its field.

        If the type excludes all constants, the keyword that the prompt does not show is
        ignored: it shows the type of an `enum`, but the value of a `const`.
        """
        if isinstance(schema, Mapping):
            for keyword, hidden in (("const", "type"), ("enum", "enum")):
                if self._is_mistyped(schema, keyword):
                    self.note_unenforced(where, hidden)
                    schema = {k: one for k, one in schema.items() if k != hidden}
        return self._of(schema, where)

    def _is_mistyped(self, schema: Mapping[str, Any], keyword: str) -> bool:
        """Whether the type of a schema excludes all of its constants."""
        if "type" not in schema or keyword not in schema:
            return False
        return not self._of({"type": schema["type"], keyword: schema[keyword]})

    def _of(
        self, schema: Schema, where: str | None = None, seen: tuple[str, ...] = ()
    ) -> list[ValueSet]:
        """Convert a schema within references `seen`; note nothing without `where`."""
        self._steps += 1
        if self._steps > self._max_steps:
            raise OverflowError("the schema has too many references")
        if isinstance(schema, bool):
            return [*ALL] if schema else []
        if not isinstance(schema, Mapping):
            self.note_unenforced(where, "schema")
            return [*ALL]
        keywords = Keywords(
            schema, lambda keyword: self.note_unenforced(where, keyword)
        )
        found = keywords.value_sets(drop_contradictions=self._drop_contradictions)
        for keyword in ("const", "enum"):
            if keyword in schema:
                found = self._intersection(found, self._values(schema, keyword, where))
        if "propertyNames" in schema:
            found = self._named(found, schema["propertyNames"], where)
        for keyword in APPLIED:
            for union in self._applied(schema, keyword, where, seen):
                met = self._intersection(found, union)
                lost = self._drop_contradictions and found and not met
                if lost or len(met) - _constants(met) > MAX_SETS:
                    self.note_unenforced(where, keyword)
                else:
                    found = met
        if schema.get("nullable") is True and NULL not in found:
            found.append(NULL)
        return found

    def note_unenforced(self, where: str | None, keyword: str) -> None:
        """Note that a keyword is not enforced."""
        if where is not None:
            self.unenforced[where, keyword] = None

    def allows(self, value: Any, schema: Schema) -> bool:
        """Whether a schema allows a value, as far as its value sets express it."""
        return any(
            is_member(value, value_set, self.allows) for value_set in self._of(schema)
        )

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
        self, value_sets: Sequence[ValueSet], schema: Schema, where: str | None
    ) -> list[ValueSet]:
        """Restrict objects to the names that a schema allows."""
        names = [one for one in self._of(schema) if isinstance(one, Constant | Text)]
        if Text() in names:
            return [*value_sets]
        if any(isinstance(one, Text) for one in names):
            self.note_unenforced(where, "propertyNames")
            return [*value_sets]
        texts = [one.value for one in names if isinstance(one, Constant)]
        return [
            replace(
                value_set,
                fields={
                    name: value_set.schema_of(name)
                    for name in texts
                    if isinstance(name, str)
                },
                others=False,
                patterns={},
            )
            if isinstance(value_set, Object)
            else value_set
            for value_set in value_sets
        ]

    def _intersection(
        self, ones: Sequence[ValueSet], twos: Sequence[ValueSet]
    ) -> list[ValueSet]:
        """Return the intersection of two unions."""
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
                    found[len(found), "value_set"] = met
        return [*found.values()]

    def _applied(
        self,
        schema: Mapping[str, Any],
        keyword: str,
        where: str | None,
        seen: tuple[str, ...],
    ) -> Iterable[list[ValueSet]]:
        """Yield the unions of a keyword; each must be intersected."""
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
        if where_to in seen:  # a cycle adds nothing to a union
            return []
        found = self._references.find(where_to)
        if found is None or len(seen) >= MAX_REFERENCES:
            self.note_unenforced(where, "$ref")
            return [*ALL]
        return self._of(found, where, (*seen, where_to))

    def _are_disjoint(self, unions: Sequence[Sequence[ValueSet]]) -> bool:
        """Whether the unions are disjoint, as far as a simple check can tell."""
        fields = _Fields(self._of)
        others: list[ValueSet] = []
        constants: set[ValueSet] = set()
        for union in unions:
            values = {one for one in union if isinstance(one, Constant)}
            own = [one for one in union if not isinstance(one, Constant)]
            pairs = chain(product(others, union), product(own, constants))
            if constants & values or not all(
                self._is_disjoint(one, two, fields) for one, two in pairs
            ):
                return False
            others += own
            constants |= values
        return True

    def _is_disjoint(self, one: ValueSet, two: ValueSet, fields: "_Fields") -> bool:
        if isinstance(one, Object) and isinstance(two, Object):
            for name in dict.fromkeys(one.required + two.required):
                if not self._intersection(fields.of(one, name), fields.of(two, name)):
                    return True
        return intersect(one, two, self.allows) is None


class _Fields:
    """Caches the unions of the fields of objects."""

    def __init__(self, convert: Callable[[Schema], list[ValueSet]]) -> None:
        self._convert = convert
        self._known: dict[tuple[int, str], list[ValueSet]] = {}

    def of(self, value_set: Object, name: str) -> list[ValueSet]:
        key = (id(value_set), name)
        if key not in self._known:
            self._known[key] = self._convert(value_set.schema_of(name))
        return self._known[key]


def _joined(unions: Iterable[Iterable[ValueSet]]) -> list[ValueSet]:
    found: list[ValueSet] = []
    known: set[Constant] = set()
    for union in unions:
        for value_set in union:
            if isinstance(value_set, Constant):
                if value_set not in known:
                    known.add(value_set)
                    found.append(value_set)
            elif value_set not in found:
                found.append(value_set)
    return found


def _is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _constants(union: Iterable[ValueSet]) -> int:
    return sum(isinstance(value_set, Constant) for value_set in union)
