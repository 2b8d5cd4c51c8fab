"""Convert a Python signature to the JSON schema of its arguments.

str int float bool None         the JSON types
list[T] tuple[T, ...] set[T]    arrays
dict[str, T]                    objects
Literal, Enum                   enums
A | B, Optional[A]              anyOf
Annotated[T, "description"]     T with a description

Knows nothing of models.
"""

import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union

from mlx_gptoss.chat.tools.docstring import parse_docstring
from mlx_gptoss.errors import PromptError

JSON_TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
ARRAYS = (list, tuple, set, frozenset, Sequence, Iterable)
OBJECTS = (dict, Mapping)
ANY = (Any, object, inspect.Parameter.empty)
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

Schema = dict[str, Any]


def parameters_schema(function: Callable[..., Any]) -> Schema | None:
    """Return the schema of the arguments of `function`; None if it takes none.

    Raises PromptError for parameters or types that JSON cannot express.
    """
    name = getattr(function, "__name__", "the function")
    texts = parse_docstring(inspect.getdoc(function)).parameters
    hints = _hints(function, name)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in NAMED:
            raise PromptError(
                f"tool `{name}` takes `{parameter}`, which cannot be passed by name: "
                "name its parameters one by one"
            )
        annotation = hints.get(parameter.name, parameter.empty)
        schema = type_schema(annotation, f"`{parameter.name}` of tool `{name}`")
        if text := texts.get(parameter.name):
            schema.setdefault("description", text)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif _is_plain(parameter.default):
            schema["default"] = parameter.default
        properties[parameter.name] = schema
    if not properties:
        return None
    return {"type": "object", "properties": properties, "required": required}


def type_schema(annotation: Any, where: str) -> Schema:
    """Return the schema of an annotation; `where` names it in errors."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        texts = [one for one in inner[1:] if isinstance(one, str)]
        described = {"description": texts[0]} if texts else {}
        return type_schema(inner[0], where) | described
    if annotation in ANY:
        return {}
    if annotation in JSON_TYPES:
        return {"type": JSON_TYPES[annotation]}
    if _is_enum(annotation):
        return _enum([member.value for member in annotation])
    if origin is Literal:
        return _enum(list(inner))
    if origin in (Union, types.UnionType):
        return {"anyOf": [type_schema(one, where) for one in inner]}
    kind = origin or annotation
    if kind in ARRAYS:
        return _array(inner, where)
    if kind in OBJECTS:
        return _object(inner, where)
    raise PromptError(
        f"{where} has type `{annotation}`, which JSON cannot express: use str, int, "
        "float, bool, list, dict, Literal or Enum"
    )


def to_python(value: Any, annotation: Any) -> Any:
    """Convert a validated JSON value to the type of the annotation."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return to_python(value, inner[0])
    if _is_enum(annotation):
        return annotation(value)
    if origin in (Union, types.UnionType):
        enums = [one for one in inner if _is_enum(one)]
        fitting = [one for one in enums if value in [member.value for member in one]]
        return fitting[0](value) if fitting else value
    kind = origin or annotation
    if kind in ARRAYS and isinstance(value, list):
        item = inner[0] if inner else Any
        items = [to_python(one, item) for one in value]
        return kind(items) if kind in (tuple, set, frozenset) else items
    if kind in OBJECTS and isinstance(value, dict) and len(inner) > 1:
        return {key: to_python(one, inner[1]) for key, one in value.items()}
    return float(value) if annotation is float and type(value) is int else value


def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Resolve the annotations of `function`, keeping `Annotated`."""
    return _hints(function, getattr(function, "__name__", "the function"))


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError) as error:
        raise PromptError(
            f"the annotations of tool `{name}` cannot be resolved: {error}"
        ) from error


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def _enum(values: list[Any]) -> Schema:
    if all(isinstance(value, str) for value in values):
        return {"type": "string", "enum": values}
    return {"enum": values}


def _array(inner: tuple[Any, ...], where: str) -> Schema:
    items = {one for one in inner if one is not Ellipsis}
    if len(items) > 1:
        raise PromptError(f"{where} is a tuple of mixed types: use a list or dict")
    schemas = [type_schema(one, where) for one in items]
    return {"type": "array"} | ({"items": schemas[0]} if schemas else {})


def _object(inner: tuple[Any, ...], where: str) -> Schema:
    if not inner:
        return {"type": "object"}
    return {"type": "object", "additionalProperties": type_schema(inner[1], where)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | bool)
