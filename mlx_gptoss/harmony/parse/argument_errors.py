"""Check the arguments of a tool call against its schema, in words a model can act on.

Covers the keywords that tool schemas use: `type`, `nullable`, `enum`, `const`,
`properties`, `patternProperties`, `additionalProperties`, `required`, `items`, `anyOf`,
`oneOf`, `allOf` and local `$ref`. Other keywords are documentation here, and a keyword
with a malformed value imposes nothing. Raises RecursionError for values nested too
deeply, nothing else.

Why not `jsonschema`: the check has to agree with the prompt and with the grammar that
the call was sampled under, for any schema that a client sends.

- A malformed keyword (`required: null`, `type: "int"`) is skipped: there it raises
  TypeError or UnknownType in the middle of a check.
- `oneOf` accepts a value that fits two branches, keys beside a `$ref` override its
  target, and a constant counts although its `type` excludes it.
- Patterns are matched by `regex` with a timeout; there by `re` without one.
- A reference never leaves the document; there it is fetched by default.

Each of these replaces one of its keyword functions, and nothing but the loop over
keywords would be left of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_gptoss.harmony.constrain.schema.value_sets import pattern_matches
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.messages import JsonSchema
from mlx_gptoss.harmony.references import References

SHOWN = 60  # characters of a wrong value that a message repeats


def argument_errors(value: Any, schema: JsonSchema) -> Iterator[str]:
    """Yield one line for each place where `value` violates `schema`."""
    return _Checker(schema).errors(value, schema, "")


def with_integers(value: Any, schema: JsonSchema) -> Any:
    """Return `value` with 3.0 as 3 wherever the schema asks for an integer."""
    return _Checker(schema).with_integers(value, schema)


class _Checker:
    """Checks values against schemas of one document; `path` is that of the value."""

    def __init__(self, root: JsonSchema) -> None:
        self._references = References(root)

    def errors(self, value: Any, schema: JsonSchema, path: str) -> Iterator[str]:
        schema = self._resolved(schema)
        if value is None and schema.get("nullable") is True:
            return
        name = f"`{path}`" if path else "the arguments"
        types = _types(schema)
        if "const" in schema and not _has_type(schema["const"], types):
            types = []  # the prompt shows the constant
        if not _has_type(value, types):
            yield f"{name} must be {' or '.join(types)}, not {_shown(value)}"
            return
        listed = schema.get("enum")
        choices = listed if isinstance(listed, list) else []
        choices = [one for one in choices if _has_type(one, types)]
        if choices and not any(_are_equal(value, one) for one in choices):
            named = ", ".join(map(json_text, choices))
            yield f"{name} must be one of {named}, not {_shown(value)}"
        if "const" in schema and not _are_equal(value, schema["const"]):
            yield f"{name} must be {json_text(schema['const'])}, not {_shown(value)}"
        for key in ("anyOf", "oneOf"):
            yield from self._no_branch(value, _schemas(schema.get(key)), path)
        for part in _schemas(schema.get("allOf")):
            yield from self.errors(value, part, path)
        if isinstance(value, dict):
            yield from self._fields(value, schema, path)
        if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
            for index, item in enumerate(value):
                yield from self.errors(item, schema["items"], f"{path}[{index}]")

    def with_integers(self, value: Any, schema: JsonSchema) -> Any:
        schema = self._resolved(schema)
        if isinstance(value, float) and schema.get("type") in (
            "integer",
            ["integer", "null"],
        ):
            return int(value) if value.is_integer() else value
        if isinstance(value, dict):
            known = _mapping(schema.get("properties"))
            return {
                name: self.with_integers(item, known[name])
                if isinstance(known.get(name), Mapping)
                else item
                for name, item in value.items()
            }
        if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
            return [self.with_integers(item, schema["items"]) for item in value]
        return value

    def _fields(
        self, value: Mapping[str, Any], schema: JsonSchema, path: str
    ) -> Iterator[str]:
        known = _mapping(schema.get("properties"))
        required = schema.get("required")
        for name in required if isinstance(required, list) else ():
            if isinstance(name, str) and name not in value:
                yield f"`{_join(path, name)}` is missing"
        patterns = _mapping(schema.get("patternProperties"))
        others = schema.get("additionalProperties", True)
        for name, item in value.items():
            where = _join(path, name)
            found = [one for key, one in patterns.items() if pattern_matches(key, name)]
            found += [known[name]] if name in known else []
            if found:
                for one in _schemas(found):
                    yield from self.errors(item, one, where)
            elif others is False:
                names = ", ".join(f"`{one}`" for one in known) or "nothing"
                yield f"`{where}` is unknown: the tool takes {names}"
            elif isinstance(others, Mapping):
                yield from self.errors(item, others, where)

    def _no_branch(
        self, value: Any, schemas: list[JsonSchema], path: str
    ) -> Iterator[str]:
        """Yield the first error of each branch if none of them allows the value."""
        failures = [list(self.errors(value, one, path)) for one in schemas]
        if failures and all(failures):
            yield " or ".join(lines[0] for lines in failures)

    def _resolved(self, schema: JsonSchema) -> JsonSchema:
        """Follow local references; one that resolves to nothing allows everything."""
        seen: list[str] = []
        while isinstance(where := schema.get("$ref"), str) and where not in seen:
            seen.append(where)
            schema = self._references.inline(schema)
        return schema


def _has_type(value: Any, types: list[str]) -> bool:
    return not types or any(_is(value, one) for one in types)


def _types(schema: JsonSchema) -> list[str]:
    given = schema.get("type")
    kinds = given if isinstance(given, list) else [given]
    return [kind for kind in kinds if isinstance(kind, str)]


def _schemas(given: Any) -> list[JsonSchema]:
    """Return a list of schemas; an entry that is no mapping allows everything."""
    parts = given if isinstance(given, list) else []
    return [part if isinstance(part, Mapping) else {} for part in parts]


def _mapping(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}


def _are_equal(one: Any, two: Any) -> bool:
    """Whether two values are equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(
            _are_equal(value, two[key]) for key, value in one.items()
        )
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_are_equal, one, two))
    return one == two


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
