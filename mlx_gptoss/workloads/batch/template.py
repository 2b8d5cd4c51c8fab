"""Turn a row of fields into the body of a chat completion.

    template = Template("Extract the parties: {text}", schema=schema, system="...")
    template.body({"text": "..."})     # {"messages": [...], "response_format": ...}

A `{name}` in the prompt is a field of the row; `{{` and `}}` are braces.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from mlx_gptoss.errors import BatchError


class MissingFieldError(Exception):
    """A row lacks a field that the prompt names."""


@dataclass(frozen=True)
class Template:
    """What is asked of each row.

    prompt: text with `{name}` for each field.
    system: instructions, the same for all rows.
    schema: a JSON schema that answers follow; None for text.
    fields: further fields of the body, such as `temperature`.
    mask: changes each row first, for example by masking what is private; `masked_by`
        says how, because answers depend on it.

    Raises BatchError for a prompt that is no template.
    """

    prompt: str
    system: str | None = None
    schema: Mapping[str, Any] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    mask: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = field(
        default=None, compare=False
    )
    masked_by: str = ""

    def __post_init__(self) -> None:
        _ = self.names  # checks the prompt

    @property
    def names(self) -> list[str]:
        """The fields that the prompt names, in their order."""
        return list(dict.fromkeys(name for _, name in self._parts() if name))

    @property
    def columns(self) -> list[str]:
        """The columns of an answer: a schema's properties, else `answer`."""
        properties = (self.schema or {}).get("properties")
        is_object = self.schema is not None and self.schema.get("type") == "object"
        return list(properties) if is_object and properties else ["answer"]

    def body(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body for a row. Raises MissingFieldError."""
        row = row if self.mask is None else self.mask(row)
        messages = [{"role": "user", "content": self._filled(row)}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        body: dict[str, Any] = {"messages": messages, **self.fields}
        if self.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "row", "schema": self.schema},
            }
        return body

    def digest(self) -> str:
        """Return a digest (hex) of everything an answer depends on."""
        parts: list[Any] = [self.prompt, self.system, self.schema, self.fields]
        parts += [self.masked_by] if self.masked_by else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def require_columns(self, columns: Iterable[str]) -> None:
        """Raise BatchError if a table lacks a column that the prompt names."""
        known = list(columns)
        for name in self.names:
            if name not in known:
                listed = ", ".join(f"`{one}`" for one in known)
                raise BatchError(
                    f"the prompt names `{{{name}}}`, and the table has {listed}"
                )

    def _filled(self, row: Mapping[str, Any]) -> str:
        return "".join(
            text + ("" if name is None else _value(row, name))
            for text, name in self._parts()
        )

    def _parts(self) -> list[tuple[str, str | None]]:
        try:
            parsed = list(Formatter().parse(self.prompt))
        except ValueError as error:
            raise BatchError(
                f"the prompt is no template: {error}; write {{{{ for a brace"
            ) from error
        for _, name, form, conversion in parsed:
            if name == "" or form or conversion:
                raise BatchError(
                    "the prompt has braces that name no field: write {name}, or {{ "
                    "and }} for braces"
                )
        return [(text, name) for text, name, _, _ in parsed]


def _value(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        known = ", ".join(f"`{one}`" for one in row) or "none"
        raise MissingFieldError(f"has no field `{name}` (it has {known})")
    value = row[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
