"""Resolve what the TypeScript form cannot say: `$ref`, `anyOf`, `allOf`, `const`.

openai-harmony writes `any` for these, so pydantic's `Optional[str]` tells the
model nothing. Here each becomes a plain schema, a union or a literal. A schema
that has its own `oneOf` or `type` beside `anyOf` or `allOf` is left as it is, but
for an object, which gains the fields of `allOf`.

A definition is written out wherever it is referred to, but not inside itself, nor
inside one that it is referred to by in a circle: that would say the same again and
again, in all orders there are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_gptoss.harmony.messages import JsonSchema

UNION = "\0union"  # list of plain schemas; a key no JSON schema uses
LITERAL = "\0literal"  # one JSON value
MAX_DEPTH = 64  # nesting and reference chains deeper than this become `any`
MAX_WRITTEN = 10_000  # parts that references bring; those beyond become `any`


def plain_schema(schema: JsonSchema) -> JsonSchema:
    """Return an equal schema without `$ref`, `anyOf`, `allOf` and `const`."""
    return _Resolver(schema).plain(schema, (), 0)


class _Resolver:
    """Resolves the parts of one schema; `seen` are the references they stand in."""

    def __init__(self, root: JsonSchema) -> None:
        self._root = root
        self._reached: dict[str, set[str]] = {}
        self._written = 0  # parts inside references

    def plain(self, schema: Any, seen: tuple[str, ...], depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        self._written += bool(seen)
        if depth > MAX_DEPTH or self._written > MAX_WRITTEN:
            return {}
        if "$ref" in schema:
            return self._reference(schema, seen, depth)
        out = dict(schema)
        if "const" in out and "oneOf" not in out:
            return {**out, LITERAL: out["const"]}
        if "oneOf" not in out:
            kind = out.get("type")
            if isinstance(out.get("allOf"), list) and kind in (None, "object"):
                return self._merged(out, seen, depth)
            if isinstance(out.get("anyOf"), list) and kind is None:
                return self._union(out, seen, depth)
        properties = out.get("properties")
        if isinstance(properties, Mapping):
            out["properties"] = {
                key: self.plain(value, seen, depth + 1)
                for key, value in properties.items()
            }
        if "items" in out:
            out["items"] = self.plain(out["items"], seen, depth + 1)
        if isinstance(out.get("oneOf"), list):
            out["oneOf"] = [self.plain(one, seen, depth + 1) for one in out["oneOf"]]
        return out

    def _reference(self, schema: JsonSchema, seen: tuple[str, ...], depth: int) -> Any:
        """Replace a `$ref` by its target; its own keys win. A circle becomes `any`."""
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        where = schema["$ref"]
        target = _lookup(where, self._root)
        if not isinstance(target, Mapping) or self._goes_round(where, seen):
            return beside
        return self.plain({**target, **beside}, (*seen, where), depth + 1)

    def _goes_round(self, where: str, seen: tuple[str, ...]) -> bool:
        reached = self._reach(where)
        return any(one == where or one in reached for one in seen)

    def _reach(self, where: str) -> set[str]:
        """The references that `where` leads to, over others too."""
        if where not in self._reached:
            found: set[str] = set()
            left = [where]
            while left:
                for one in _references(_lookup(left.pop(), self._root)):
                    if one not in found:
                        found.add(one)
                        left.append(one)
            self._reached[where] = found
        return self._reached[where]

    def _union(
        self, schema: JsonSchema, seen: tuple[str, ...], depth: int
    ) -> JsonSchema:
        beside = {key: value for key, value in schema.items() if key != "anyOf"}
        parts = [self.plain(one, seen, depth + 1) for one in schema["anyOf"]]
        flat: list[Any] = []
        for part in parts:
            inner = part.get(UNION, [part]) if isinstance(part, Mapping) else [{}]
            flat += [one for one in inner if one not in flat]
        return {**beside, UNION: flat} if flat else beside

    def _merged(
        self, schema: JsonSchema, seen: tuple[str, ...], depth: int
    ) -> JsonSchema:
        """One schema that says what all of `allOf` say; objects join their fields."""
        beside = {key: value for key, value in schema.items() if key != "allOf"}
        out: dict[str, Any] = {}
        for one in [*schema["allOf"], beside]:
            part = self.plain(one, seen, depth + 1)
            if not isinstance(part, Mapping):
                continue
            properties = {**_fields(out), **_fields(part)}
            required = [*_required(out), *_required(part)]
            out |= part
            if properties:
                fields = {"properties": properties, "required": required}
                out |= {"type": "object", **fields}
        return out


def _fields(schema: JsonSchema) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _required(schema: JsonSchema) -> list[Any]:
    found = schema.get("required")
    return found if isinstance(found, list) else []


def _references(schema: Any) -> Iterator[str]:
    """Every `$ref` that stands in a schema."""
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            if isinstance(where := one.get("$ref"), str):
                yield where
            left += one.values()
        elif isinstance(one, list):
            left += one


def _lookup(where: Any, root: JsonSchema) -> Any:
    if not isinstance(where, str) or not where.startswith("#"):
        return None
    found: Any = root
    for step in where.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found
