"""Resolve what the TypeScript form cannot express: `$ref`, `anyOf`, `allOf`, `const`.

openai-harmony writes `any` for these, so pydantic's `Optional[str]` tells the model
nothing. Here each becomes a plain schema, a union or a literal. A schema with its own
`oneOf` or `type` beside `anyOf` or `allOf` is left unchanged, except that an object
gains the fields of its `allOf`.

A definition is written out wherever it is referenced, but never inside itself or inside
a definition that references it in turn: a cycle becomes `any`.
"""

from collections.abc import Mapping
from typing import Any

from mlx_gptoss.harmony.messages import JsonSchema
from mlx_gptoss.harmony.references import References

UNION = "\0union"  # list of plain schemas; a key no JSON schema uses
LITERAL = "\0literal"  # one JSON value
MAX_DEPTH = 64  # nesting and reference chains deeper than this become `any`
MAX_WRITTEN = 10_000  # schemas inlined through references; those beyond become `any`


def plain_schema(schema: JsonSchema) -> JsonSchema:
    """Return an equivalent schema without `$ref`, `anyOf`, `allOf` and `const`."""
    return _Resolver(schema).plain(schema, (), 0)


class _Resolver:
    """Resolves the parts of one schema; `seen` are the references around a part."""

    def __init__(self, root: JsonSchema) -> None:
        self._references = References(root, ignore_ids=True)
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
        """Inline a `$ref`; one that resolves to nothing or to a cycle becomes `any`."""
        where = schema["$ref"]
        target = self._references.find(where)
        if not isinstance(target, Mapping) or self._is_cycle(where, seen):
            return {key: value for key, value in schema.items() if key != "$ref"}
        return self.plain(self._references.inline(schema), (*seen, where), depth + 1)

    def _is_cycle(self, where: str, seen: tuple[str, ...]) -> bool:
        reachable = self._references.reachable(where)
        return any(one == where or one in reachable for one in seen)

    def _union(
        self, schema: JsonSchema, seen: tuple[str, ...], depth: int
    ) -> JsonSchema:
        siblings = {key: value for key, value in schema.items() if key != "anyOf"}
        parts = [self.plain(one, seen, depth + 1) for one in schema["anyOf"]]
        flat: list[Any] = []
        for part in parts:
            inner = part.get(UNION, [part]) if isinstance(part, Mapping) else [{}]
            flat += [one for one in inner if one not in flat]
        return {**siblings, UNION: flat} if flat else siblings

    def _merged(
        self, schema: JsonSchema, seen: tuple[str, ...], depth: int
    ) -> JsonSchema:
        """Merge the schemas of `allOf` into one; objects join their fields."""
        siblings = {key: value for key, value in schema.items() if key != "allOf"}
        out: dict[str, Any] = {}
        for one in [*schema["allOf"], siblings]:
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
