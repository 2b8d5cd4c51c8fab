"""Check JSON values against a schema, in words a model can act on.

The part of JSON Schema that tool arguments use: type, enum, const, properties,
required, additionalProperties, items, anyOf, oneOf, allOf and local `$ref`.
Other keys are descriptions here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_gptoss.harmony.json_text import json_text

Schema = Mapping[str, Any]
SHOWN = 60  # characters of a wrong value that an error repeats


def errors(value: Any, schema: Schema, root: Schema, path: str = "") -> Iterator[str]:
    """Yield one line for each place where `value` is not what `schema` says."""
    schema = _resolved(schema, root)
    name = f"`{path}`" if path else "the arguments"
    allowed = schema.get("type")
    types = [allowed] if isinstance(allowed, str) else allowed
    if types and not any(_is(value, one) for one in types):
        yield f"{name} must be {' or '.join(types)}, not {_shown(value)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(map(json_text, schema["enum"]))
        yield f"{name} must be one of {choices}, not {_shown(value)}"
    if "const" in schema and value != schema["const"]:
        yield f"{name} must be {json_text(schema['const'])}, not {_shown(value)}"
    for key in ("anyOf", "oneOf"):
        yield from _alternatives(value, schema.get(key), root, path)
    for part in schema.get("allOf", ()):
        yield from errors(value, part, root, path)
    if isinstance(value, dict):
        yield from _fields(value, schema, root, path)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from errors(item, schema["items"], root, f"{path}[{index}]")


def integral(value: Any, schema: Schema, root: Schema) -> Any:
    """Write 3.0 as 3 where the schema wants an integer; else give `value` back."""
    schema = _resolved(schema, root)
    types = schema.get("type")
    if isinstance(value, float) and types in ("integer", ["integer", "null"]):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        return {k: integral(v, fields.get(k, {}), root) for k, v in value.items()}
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [integral(item, schema["items"], root) for item in value]
    return value


def _fields(value: Any, schema: Schema, root: Schema, path: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"`{_join(path, name)}` is missing"
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        where = _join(path, name)
        if name in known:
            yield from errors(item, known[name], root, where)
        elif others is False:
            names = ", ".join(f"`{one}`" for one in known) or "nothing"
            yield f"`{where}` is unknown: the tool takes {names}"
        elif isinstance(others, Mapping):
            yield from errors(item, others, root, where)


def _alternatives(value: Any, schemas: Any, root: Schema, path: str) -> Iterator[str]:
    if not schemas:
        return
    failures = [list(errors(value, one, root, path)) for one in schemas]
    if all(failures):
        yield " or ".join(lines[0] for lines in failures)


def _resolved(schema: Schema, root: Schema) -> Schema:
    """Follow local references; what cannot be followed allows everything."""
    seen: list[str] = []
    while isinstance(where := schema.get("$ref"), str) and where not in seen:
        seen.append(where)
        found: Any = root
        for step in where.removeprefix("#").split("/")[1:]:
            found = found.get(step, {}) if isinstance(found, Mapping) else {}
        schema = found if isinstance(found, Mapping) else {}
    return schema


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        whole = isinstance(value, float) and value.is_integer()
        return isinstance(value, int) or whole
    return isinstance(value, PYTHON_TYPES.get(kind, object))


PYTHON_TYPES: dict[str, Any] = {
    "string": str,
    "number": (int, float),
    "array": list,
    "object": dict,
    "null": type(None),
    "boolean": (),
}


def _shown(value: Any) -> str:
    text = json_text(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
