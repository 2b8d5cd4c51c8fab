"""Check JSON values against a schema, in words a model can act on.

The part of JSON Schema that tool arguments use: type, enum, const, properties,
required, additionalProperties, items, anyOf, oneOf, allOf and local `$ref`.
Other keys are descriptions here, and a key whose value JSON Schema does not know is
no constraint. Raises RecursionError for values nested too deeply, nothing else.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_gptoss.harmony.constrain.schema.value_sets import pattern_matches
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.messages import JsonSchema
from mlx_gptoss.harmony.references import References

SHOWN = 60  # characters of a wrong value that an error repeats


def errors(
    value: Any, schema: JsonSchema, root: JsonSchema, path: str = ""
) -> Iterator[str]:
    """Yield one line for each place where `value` is not what `schema` says."""
    schema = _resolved(schema, root)
    if value is None and schema.get("nullable") is True:
        return
    name = f"`{path}`" if path else "the arguments"
    types = _types(schema)
    if "const" in schema and not _fits(schema["const"], types):
        types = []  # the model is shown the constant
    if not _fits(value, types):
        yield f"{name} must be {' or '.join(types)}, not {_shown(value)}"
        return
    listed = schema.get("enum")
    choices = (
        [one for one in listed if _fits(one, types)] if isinstance(listed, list) else []
    )
    if choices and value not in choices:
        named = ", ".join(map(json_text, choices))
        yield f"{name} must be one of {named}, not {_shown(value)}"
    if "const" in schema and value != schema["const"]:
        yield f"{name} must be {json_text(schema['const'])}, not {_shown(value)}"
    for key in ("anyOf", "oneOf"):
        yield from _alternatives(value, _schemas(schema.get(key)), root, path)
    for part in _schemas(schema.get("allOf")):
        yield from errors(value, part, root, path)
    if isinstance(value, dict):
        yield from _fields(value, schema, root, path)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from errors(item, schema["items"], root, f"{path}[{index}]")


def integral(value: Any, schema: JsonSchema, root: JsonSchema) -> Any:
    """Write 3.0 as 3 where the schema wants an integer; else give `value` back."""
    schema = _resolved(schema, root)
    types = schema.get("type")
    if isinstance(value, float) and types in ("integer", ["integer", "null"]):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        given = schema.get("properties")
        known = given if isinstance(given, Mapping) else {}
        return {
            name: integral(item, known[name], root)
            if isinstance(known.get(name), Mapping)
            else item
            for name, item in value.items()
        }
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [integral(item, schema["items"], root) for item in value]
    return value


def _fields(
    value: Any, schema: JsonSchema, root: JsonSchema, path: str
) -> Iterator[str]:
    given = schema.get("properties")
    known = given if isinstance(given, Mapping) else {}
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in value:
            yield f"`{_join(path, name)}` is missing"
    patterns = schema.get("patternProperties")
    patterns = patterns if isinstance(patterns, Mapping) else {}
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        where = _join(path, name)
        found = [one for key, one in patterns.items() if pattern_matches(key, name)]
        found += [known[name]] if name in known else []
        if found:
            for one in _schemas(found):
                yield from errors(item, one, root, where)
        elif others is False:
            names = ", ".join(f"`{one}`" for one in known) or "nothing"
            yield f"`{where}` is unknown: the tool takes {names}"
        elif isinstance(others, Mapping):
            yield from errors(item, others, root, where)


def _alternatives(
    value: Any, schemas: list[JsonSchema], root: JsonSchema, path: str
) -> Iterator[str]:
    if not schemas:
        return
    failures = [list(errors(value, one, root, path)) for one in schemas]
    if all(failures):
        yield " or ".join(lines[0] for lines in failures)


def _fits(value: Any, types: list[str]) -> bool:
    return not types or any(_is(value, one) for one in types)


def _types(schema: JsonSchema) -> list[str]:
    given = schema.get("type")
    kinds = given if isinstance(given, list) else [given]
    return [kind for kind in kinds if isinstance(kind, str)]


def _schemas(given: Any) -> list[JsonSchema]:
    """The schemas of a list; those that are none allow everything."""
    parts = given if isinstance(given, list) else []
    return [part if isinstance(part, Mapping) else {} for part in parts]


def _resolved(schema: JsonSchema, root: JsonSchema) -> JsonSchema:
    """Follow local references; what cannot be followed allows everything."""
    seen: list[str] = []
    while isinstance(where := schema.get("$ref"), str) and where not in seen:
        seen.append(where)
        found = References(root).find(where)
        beside = {key: one for key, one in schema.items() if key != "$ref"}
        schema = {**(found if isinstance(found, Mapping) else {}), **beside}
    return schema


def _is(value: Any, kind: str) -> bool:
    if kind not in PYTHON_TYPES:  # no type of JSON Schema, so no constraint
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        whole = isinstance(value, float) and value.is_integer()
        return isinstance(value, int) or whole
    return isinstance(value, PYTHON_TYPES[kind])


PYTHON_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
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
