"""Resolve what the TypeScript form cannot say: `$ref`, `anyOf`, `allOf`, `const`.

openai-harmony writes `any` for these, so pydantic's `Optional[str]` tells the
model nothing. Here each becomes a plain schema, a union or a literal. A schema
that has its own `oneOf` or `type` beside `anyOf` or `allOf` is left as it is, but
for an object, which gains the fields of `allOf`.
"""

from collections.abc import Mapping
from typing import Any

UNION = "\0union"  # list of plain schemas; a key no JSON schema uses
LITERAL = "\0literal"  # one JSON value
MAX_DEPTH = 64  # nesting and reference chains deeper than this become `any`

Schema = Mapping[str, Any]


def plain_schema(schema: Schema) -> Schema:
    """Return an equal schema without `$ref`, `anyOf`, `allOf` and `const`."""
    return _plain(schema, schema, (), 0)


def _plain(schema: Any, root: Schema, seen: tuple[str, ...], depth: int) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    if depth > MAX_DEPTH:
        return {}
    if "$ref" in schema:
        return _reference(schema, root, seen, depth)
    out = dict(schema)
    if "const" in out and "oneOf" not in out:
        return {**out, LITERAL: out["const"]}
    if "oneOf" not in out:
        kind = out.get("type")
        if isinstance(out.get("allOf"), list) and kind in (None, "object"):
            return _merged(out, root, seen, depth)
        if isinstance(out.get("anyOf"), list) and kind is None:
            return _union(out, root, seen, depth)
    properties = out.get("properties")
    if isinstance(properties, Mapping):
        out["properties"] = {
            key: _plain(value, root, seen, depth + 1)
            for key, value in properties.items()
        }
    if "items" in out:
        out["items"] = _plain(out["items"], root, seen, depth + 1)
    if isinstance(out.get("oneOf"), list):
        out["oneOf"] = [_plain(one, root, seen, depth + 1) for one in out["oneOf"]]
    return out


def _reference(schema: Schema, root: Schema, seen: tuple[str, ...], depth: int) -> Any:
    """Replace a `$ref` by its target; its own keys win. A cycle becomes `any`."""
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    where = schema["$ref"]
    target = _lookup(where, root)
    if where in seen or not isinstance(target, Mapping):
        return beside
    return _plain({**target, **beside}, root, (*seen, where), depth + 1)


def _lookup(where: Any, root: Schema) -> Any:
    if not isinstance(where, str) or not where.startswith("#"):
        return None
    found: Any = root
    for step in where.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def _union(schema: Schema, root: Schema, seen: tuple[str, ...], depth: int) -> Schema:
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    parts = [_plain(one, root, seen, depth + 1) for one in schema["anyOf"]]
    flat: list[Any] = []
    for part in parts:
        inner = part.get(UNION, [part]) if isinstance(part, Mapping) else [{}]
        flat += [one for one in inner if one not in flat]
    return {**beside, UNION: flat} if flat else beside


def _merged(schema: Schema, root: Schema, seen: tuple[str, ...], depth: int) -> Schema:
    """One schema that says what all of `allOf` say; objects join their fields."""
    beside = {key: value for key, value in schema.items() if key != "allOf"}
    out: dict[str, Any] = {}
    for one in [*schema["allOf"], beside]:
        part = _plain(one, root, seen, depth + 1)
        if not isinstance(part, Mapping):
            continue
        properties = {**out.get("properties", {}), **part.get("properties", {})}
        required = [*out.get("required", []), *part.get("required", [])]
        out |= part
        if properties:
            out |= {"type": "object", "properties": properties, "required": required}
    return out
