r"""JSON schemas as grammars that take the fields of an object in any order.

llguidance takes fields in the order of their schema. A model that begins with
another one could not come back to those before it, and a mask would push it to
fields it did not want. Here an object of named fields becomes rules that remember
which have come (the library's parametric grammars, a bit for each field); whatever
these do not say stays a schema of the library's, inside:

    start: "{" ( "\"a\"" COLON a rest::0x1 | "\"b\"" COLON b rest::0x2 )? "}"
    rest::_: "" | "," "\"a\"" COLON a rest::set_bit(0) %if bit_clear(0) | ...

Schemas in, grammars out; which schemas are refused is not its business.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

MOST_FIELDS = 64  # bits of a rule's parameter
MOST_TEXT = 1 << 20  # characters of a grammar: parts that refer repeat the whole schema
WHOLE = "whole"  # the definition under which a schema finds itself
REMARKS = {  # keys that bind nothing
    *("title", "description", "default", "examples", "deprecated", "readOnly"),
    *("writeOnly", "$comment", "$schema", "$defs", "definitions", "x-guidance"),
}
DEFINITIONS = ("$defs", "definitions")
VERBATIM = ("const", "enum", "default", "examples")  # no schemas
OBJECT = {"type", "properties", "required", "additionalProperties"}
ARRAY = {"type", "items", "minItems", "maxItems"}
ELSEWHERE = {"$id", "$anchor", "$dynamicRef", "$dynamicAnchor"}  # other bases of $ref
HEAD = r"""%llguidance {"skip_repetition": "once", "no_initial_skip": true}
%ignore /SPACE{1,64}/
COLON: /:SPACE{0,64}/
COMMA: /,SPACE{0,64}/
OPEN: /\[SPACE{0,64}/
NAME: /"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt])*"/
""".replace("SPACE", r"[\x20\x0A\x0D\x09]")


def any_order(schema: Any, *, options: Schema) -> str | None:
    """Return a Lark grammar for `schema`; None where it would change nothing.

    `options` are the library's own (`x-guidance`), for what stays a schema. It must
    have found `schema` to be one that it can keep.
    """
    if not isinstance(schema, Mapping) or _speaks_of_elsewhere(schema):
        return None
    writer = _Writer(schema, options)
    try:
        if not writer.gains(schema):
            return None
        return "\n".join([HEAD, f"start: {writer.value(schema)}", *writer.rules])
    except (LookupError, TypeError):  # a reference that is written in another way
        return None
    except OverflowError:  # it would be too large
        return None


class _Writer:
    """Writes a rule for each schema that is met; `rules` are those so far."""

    def __init__(self, root: Schema, options: Schema) -> None:
        self.rules: list[str] = []
        self._root = root
        self._options = options
        self._names: dict[str, str] = {}  # of rules, by reference or by their text
        self._count = 0
        self._size = 0

    def gains(self, schema: Any, seen: set[str] | None = None) -> bool:
        """Whether an object within reach may have its fields in several orders.

        `seen` are the references that were followed, each once.
        """
        seen = set() if seen is None else seen
        if fields := _fields(schema):
            inner = [*fields.values(), _others(schema)]
            several = len(fields) > 1 or _others(schema) is not False
            return several or any(self.gains(one, seen) for one in inner)
        if (parts := _union(schema) or _items(schema)) is not None:
            return any(self.gains(one, seen) for one in parts)
        if (where := _reference(schema)) is not None and where not in seen:
            seen.add(where)
            return self.gains(self._target(where), seen)
        return False

    def value(self, schema: Any) -> str:
        """Write the rules of `schema`; return the name of the first."""
        if not self.gains(schema):
            return self._library(schema)
        if (where := _reference(schema)) is not None:
            if where not in self._names:
                self._names[where] = self._name()
                target = self.value(self._target(where))
                self._rule(self._names[where], [target])
            return self._names[where]
        name = self._name()
        if fields := _fields(schema):
            self._object(name, fields, schema)
        elif parts := _union(schema):
            self._rule(name, [self.value(one) for one in parts])
        else:
            self._array(name, schema)
        return name

    def _object(self, name: str, fields: Schema, schema: Schema) -> None:
        # The fields that must come have the lowest bits.
        needed = [one for one in fields if one in schema.get("required", ())]
        names = [*needed, *(one for one in fields if one not in needed)]
        bits = {field: bit for bit, field in enumerate(names)}
        pairs = {
            bits[field]: f"{_literal(field)} COLON {self.value(inner)}"
            for field, inner in fields.items()
        }
        rest = f"{name}rest"
        first = [f"{pair} {rest}::{1 << bit:#x}" for bit, pair in pairs.items()]
        more = [
            f'"," {pair} {rest}::set_bit({bit}) %if bit_clear({bit})'
            for bit, pair in pairs.items()
        ]
        if (others := _others(schema)) is not False:
            known = " | ".join(map(_literal, fields))
            self.rules.append(f"OTHER{name.upper()}: NAME & ~({known})")
            pair = f"OTHER{name.upper()} COLON {self.value(others)}"
            first.append(f"{pair} {rest}::0x0")
            more.append(f'"," {pair} {rest}::_')
        end = f'"" %if is_ones([0:{len(needed)}])' if needed else '""'
        maybe = "" if needed else "?"
        self._rule(name, [f'"{{" ( {" | ".join(first)} ){maybe} "}}"'])
        self._rule(f"{rest}::_", [end, *more])

    def _array(self, name: str, schema: Schema) -> None:
        item = self.value(schema["items"])
        least, most = schema.get("minItems", 0), schema.get("maxItems", "")
        if most == 0:
            self._rule(name, ['OPEN "]"'])
            return
        times = f"{{{max(least - 1, 0)},{most - 1 if most != '' else ''}}}"
        maybe = "" if least else "?"
        self._rule(name, [f'OPEN ( {item} ( COMMA {item} ){times} ){maybe} "]"'])

    def _library(self, schema: Any) -> str:
        """Leave a schema to the library, with what its references need."""
        given = {} if schema is True else schema
        own: dict[str, Any] = {
            key: value for key, value in given.items() if key not in DEFINITIONS
        }
        if _refers(own):
            own = {**_moved(own), "$defs": {WHOLE: _moved(self._root)}}
        text = f"%json {json.dumps({**own, 'x-guidance': self._options})}"
        if text not in self._names:
            self._names[text] = self._name()
            self._rule(self._names[text], [text])
        return self._names[text]

    def _target(self, where: str) -> Any:
        found: Any = self._root
        for step in where.removeprefix("#").split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        return found

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def _rule(self, name: str, ways: Sequence[str]) -> None:
        self.rules.append(f"{name}: {(chr(10) + '  | ').join(ways)}")
        self._size += len(self.rules[-1])
        if self._size > MOST_TEXT:
            raise OverflowError("the grammar is too large")


def _fields(schema: Any) -> Schema | None:
    """The named fields of an object that nothing else binds."""
    if not _has_only(schema, OBJECT) or schema.get("type") != "object":
        return None
    given = schema.get("properties")
    if not isinstance(given, Mapping) or not 0 < len(given) <= MOST_FIELDS:
        return None
    required = set(schema.get("required", ()))
    named = required <= given.keys() and False not in given.values()
    return given if named else None


def _others(schema: Schema) -> Any:
    """The schema of fields without a name; False if there may be none."""
    return schema.get("additionalProperties", True)


def _union(schema: Any) -> list[Any] | None:
    """The schemas of a union that nothing else binds."""
    if _has_only(schema, {"anyOf"}) and False not in schema.get("anyOf", [False]):
        return schema["anyOf"]
    kinds = schema.get("type") if _has_only(schema, OBJECT) else None
    if isinstance(kinds, list) and "object" in kinds and len(kinds) > 1:
        others = [kind for kind in kinds if kind != "object"]
        return [{**schema, "type": "object"}, {"type": others}]
    return None


def _items(schema: Any) -> list[Any] | None:
    """The schema of an array's items, if nothing else binds them."""
    if not _has_only(schema, ARRAY) or schema.get("type") != "array":
        return None
    return [schema["items"]] if schema.get("items") else None


def _reference(schema: Any) -> str | None:
    """Where a schema that says nothing else refers to."""
    return schema["$ref"] if _has_only(schema, {"$ref"}) and "$ref" in schema else None


def _has_only(schema: Any, keys: set[str]) -> bool:
    return isinstance(schema, Mapping) and schema.keys() <= keys | REMARKS


def _literal(text: str) -> str:
    """A name as JSON writes it, as a grammar writes that."""
    return json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False)


def _refers(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return "$ref" in schema or any(map(_refers, schema.values()))
    return isinstance(schema, list) and any(map(_refers, schema))


def _speaks_of_elsewhere(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return bool(schema.keys() & ELSEWHERE) or any(
            map(_speaks_of_elsewhere, schema.values())
        )
    return isinstance(schema, list) and any(map(_speaks_of_elsewhere, schema))


def _moved(schema: Any) -> Any:
    """The same below `#/$defs/WHOLE`: references follow."""
    if isinstance(schema, list):
        return [_moved(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    where = schema.get("$ref")
    out = {
        key: value if key in VERBATIM else _moved(value)
        for key, value in schema.items()
    }
    if isinstance(where, str):
        out["$ref"] = f"#/$defs/{WHOLE}{where.removeprefix('#')}"
    return out
