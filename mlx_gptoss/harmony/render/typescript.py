"""Write JSON schemas as the TypeScript types that gpt-oss was trained to read.

Byte-identical to openai-harmony on every schema that it can express, including its odd
indentation: the model has seen nothing else. What it flattens to `any` is resolved
first, by `plain_schema.py`.
"""

from collections.abc import Mapping
from typing import Any

from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.messages import JsonSchema
from mlx_gptoss.harmony.render.plain_schema import LITERAL, UNION, plain_schema

SCALARS = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
}


def typescript(schema: JsonSchema) -> str:
    """Render the type of `schema`, as it follows `type NAME = (_: `."""
    return _type(plain_schema(schema), "")


def _type(schema: Any, indent: str) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(schema.get("oneOf"), list):
        return "".join(_variants(schema["oneOf"], indent))
    if UNION in schema:
        return " | ".join(_union_part(part, indent) for part in schema[UNION])
    if LITERAL in schema:
        return json_text(schema[LITERAL])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        names = ["number" if k == "integer" else k for k in kinds if _text(k)]
        return " | ".join(names) or "any"
    if kinds == "object":
        return _object(schema, indent)
    if kinds == "array":
        return _array(schema, indent)
    if kinds == "string" and (choices := _choices(schema)):
        return choices
    return SCALARS.get(kinds, "any") if isinstance(kinds, str) else "any"


def _union_part(schema: Any, indent: str) -> str:
    if isinstance(schema, Mapping) and schema.get("type") == "null":
        return "null"
    return _type(schema, indent)


def _array(schema: Mapping[str, Any], indent: str) -> str:
    if "items" not in schema:
        return "Array<any>"
    items = schema["items"]
    inner = _type(items, indent)
    if isinstance(items, Mapping) and UNION in items:
        inner = f"({inner})"
    return f"{inner}[]"


def _choices(schema: Mapping[str, Any]) -> str:
    values = schema.get("enum")
    texts = [v for v in values if _text(v)] if isinstance(values, list) else []
    return " | ".join(f'"{value}"' for value in texts)


def _object(schema: Mapping[str, Any], indent: str) -> str:
    lines = []
    if _text(schema.get("description")):
        lines.append(f"{indent}// {schema['description']}\n")
    lines.append("{\n")
    properties = schema.get("properties")
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    if isinstance(properties, Mapping):
        for key, value in properties.items():
            mark = "" if key in names else "?"
            field = value if isinstance(value, Mapping) else {}
            lines += _field(f"{key}{mark}", field, indent)
    lines.append(indent + "}")
    return "".join(lines)


def _field(name: str, schema: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    if _text(schema.get("title")):
        lines.append(f"{indent}// {schema['title']}\n{indent}//\n")
    if "oneOf" not in schema and _text(schema.get("description")):
        lines.append(f"{indent}// {schema['description']}\n")
    lines += _examples(schema, indent)
    if isinstance(schema.get("oneOf"), list):
        return lines + _one_of_field(name, schema, indent)
    kind = _nullable(schema, _type(schema, indent + "    "))
    comment = ""
    if "oneOf" not in schema and "default" in schema:
        comment = f" // default: {_default(schema, quote_choices=False)}"
    return [*lines, f"{indent}{name}: {kind},{comment}\n"]


def _examples(schema: Mapping[str, Any], indent: str) -> list[str]:
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return []
    texts = [f'{indent}// - "{text}"\n' for text in examples if _text(text)]
    return [f"{indent}// Examples:\n", *texts]


def _one_of_field(name: str, schema: Mapping[str, Any], indent: str) -> list[str]:
    """Write a property that is a oneOf: one variant per line, with its comments."""
    variants = [v if isinstance(v, Mapping) else {} for v in schema["oneOf"]]
    described = schema.get("description")
    described = described if _text(described) else None
    first = variants[0].get("description") if variants else None
    above = described is not None and described != first
    lines = [f"{indent}// {described}\n"] if above else []
    if "default" in schema:
        default = _default(schema, quote_choices=False)
        lines.append(f"{indent}// default: {default}\n")
    lines.append(f"{indent}{name}:\n")
    for index, variant in enumerate(variants):
        kind = _nullable(variant, _type(variant, indent + "   "))
        comments = []
        text = variant.get("description")
        if not (index == 0 and above) and _text(text) and text != described:
            comments.append(text)
        if "default" in variant:
            comments.append(f"default: {_default(variant, quote_choices=False)}")
        tail = f" // {' '.join(comments)}" if comments else ""
        lines.append(f"{indent} | {kind}{tail}\n")
    return [*lines, f"{indent},\n"]


def _variants(variants: list[Any], indent: str) -> list[str]:
    """Write a oneOf that is not a property: its variants, each with its comments."""
    lines = []
    for one in variants:
        variant = one if isinstance(one, Mapping) else {}
        kind = _nullable(variant, _type(variant, indent + "   "))
        comments = []
        if _text(variant.get("description")):
            comments.append(variant["description"])
        if "default" in variant:
            comments.append(f"default: {_default(variant, quote_choices=True)}")
        tail = f" // {' '.join(comments)}" if comments else ""
        lines.append(f"\n{indent} | {kind}{tail}")
    return lines


def _nullable(schema: Mapping[str, Any], kind: str) -> str:
    return (
        f"{kind} | null"
        if schema.get("nullable") is True and "null" not in kind
        else kind
    )


def _default(schema: Mapping[str, Any], *, quote_choices: bool) -> str:
    """Write the default: text in quotes, but a choice of an enum without them."""
    value = schema["default"]
    choices = schema.get("enum")
    is_choice = isinstance(choices, list) and bool(choices)
    if not _text(value):
        return json_text(value)
    if not is_choice:
        return f'"{value}"'
    return json_text(value) if quote_choices else value


def _text(value: Any) -> bool:
    return isinstance(value, str)
