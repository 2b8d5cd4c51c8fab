"""The format of an answer: a JSON schema, a regular expression, or a grammar.

AnswerFormat.json_schema({"type": "object", "properties": {...}})
AnswerFormat.of(request["response_format"])       # as OpenAI's API has it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import JsonSchema, ResponseFormat

FormatKind = Literal["json_schema", "regex", "lark", "grammar"]
GrammarKind = FormatKind | Literal["arguments"]  # a schema with fields in any order
ANY_OBJECT: JsonSchema = {"type": "object"}


@dataclass(frozen=True)
class AnswerFormat:
    """A grammar for the answer: a JSON schema, a regular expression, Lark, or GBNF.

    Make one with `json_schema`, `regex`, `lark` or `grammar`. `kind` says which, and
    `source` is the schema or the text; `name` and `description` are those of a schema.
    `in_prompt` shows the schema in the instructions, too. A `strict` schema is enforced
    exactly or refused; of any other, keywords that no grammar expresses are left
    unenforced.
    """

    kind: FormatKind
    source: Any
    name: str = "answer"
    description: str = ""
    in_prompt: bool = False
    strict: bool = False

    @classmethod
    def json_object(cls) -> "AnswerFormat":
        """Allow any JSON object; the prompt should ask for one as well."""
        return cls("json_schema", ANY_OBJECT)

    @classmethod
    def json_schema(
        cls,
        schema: JsonSchema,
        *,
        name: str = "answer",
        description: str = "",
        strict: bool = False,
    ) -> "AnswerFormat":
        """Allow what a JSON schema allows, and show it in the prompt.

        `name` and `description` stand above it there; `strict` is that of the class. A
        schema that cannot be compiled raises PromptError with the first answer.
        """
        return cls(
            "json_schema", schema, name, description, in_prompt=True, strict=strict
        )

    @classmethod
    def regex(cls, pattern: str) -> "AnswerFormat":
        """Allow what matches a `pattern` without look-around as a whole."""
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str) -> "AnswerFormat":
        """Allow a grammar in llguidance's Lark dialect; its start symbol is `start`."""
        return cls("lark", grammar)

    @classmethod
    def grammar(cls, text: str) -> "AnswerFormat":
        """Allow a grammar, `text` in Lark or llama.cpp's GBNF with start symbol `root`.

        A grammar that cannot be read raises PromptError with the first answer.
        """
        return cls("grammar", text)

    @classmethod
    def of(
        cls, value: "AnswerFormat | Mapping[str, Any] | None"
    ) -> "AnswerFormat | None":
        """Convert a `response_format` of OpenAI's API; None for plain text.

        `value` is an object with a `type`: text, json_object, json_schema, regex, lark
        or grammar. Raises PromptError for any other.

        A `json_object` with a `schema`, which llama-server accepts and older clients
        send, is taken as that schema.
        """
        if value is None or isinstance(value, AnswerFormat):
            return value
        kind = value.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            schema = value.get("schema")
            if schema and isinstance(schema, Mapping):
                return cls.json_schema(schema)
            return cls.json_object()
        named = value.get("json_schema", value)
        if kind == "json_schema" and isinstance(named.get("schema"), Mapping):
            return cls.json_schema(
                named["schema"],
                name=named.get("name") or "answer",
                description=named.get("description") or "",
                strict=named.get("strict") is True,
            )
        if kind in ("regex", "lark", "grammar") and isinstance(value.get(kind), str):
            return cls(kind, value[kind])
        raise PromptError(
            f"response format {dict(value)!r} is unknown: give `json_object`, "
            "`json_schema` with a schema, `regex`, `lark`, `grammar` or `text` as its "
            "`type`"
        )

    @property
    def prompt_format(self) -> ResponseFormat | None:
        """The form in which the prompt shows it, if it does."""
        if not self.in_prompt:
            return None
        return ResponseFormat(self.name, self.source, self.description)
