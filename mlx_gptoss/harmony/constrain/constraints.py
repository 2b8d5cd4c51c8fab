"""What an answer must keep to: legal headers, calls, a format, a reasoning budget.

Plain settings and what follows from them; the work is done by `guide.py`.

    Constraints()                                           # the default: headers,
                                                            # arguments by their schema
    Constraints(tool_choice="required", parallel_tool_calls=False)
    Constraints(response_format=AnswerFormat.json_schema({"type": "object", ...}))
    Constraints(max_reasoning_tokens=500, stop=("###",))
    Constraints(enforce="headers")                          # arguments are not bound
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.automaton import (
    CODE_CONTENT_TYPES,
    JSON_CONTENT_TYPES,
    AllowedCall,
    AllowedTurn,
)
from mlx_gptoss.harmony.messages import (
    CHANNELS,
    FUNCTION_PREFIX,
    JsonSchema,
    ResponseFormat,
    ToolDescription,
    ToolNamespace,
    wire_name,
)

Enforce = Literal["all", "headers", "off"]
ENFORCE = ("all", "headers", "off")
AUTO, NONE, REQUIRED = "auto", "none", "required"
NAMING_KEYWORDS = (  # keywords that may name more fields
    *("additionalProperties", "$ref", "anyOf", "oneOf", "allOf", "if", "then", "else"),
    *("dependentSchemas", "dependencies", "unevaluatedProperties", "$dynamicRef"),
)
ANY_OBJECT: JsonSchema = {"type": "object"}
NO_ARGUMENTS: JsonSchema = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
FormatKind = Literal["json_schema", "regex", "lark", "grammar"]


@dataclass(frozen=True)
class AnswerFormat:
    """A grammar for the answer: a JSON schema, a regular expression, Lark, or GBNF.

    `told` says that the model reads the schema in its instructions, too. A schema that
    is `strict` is kept to the letter or refused; of another one, what no grammar keeps
    is left free.
    """

    kind: FormatKind
    source: Any
    name: str = "answer"
    description: str = ""
    in_prompt: bool = False
    strict: bool = False

    @classmethod
    def json_object(cls) -> "AnswerFormat":
        """Any JSON object; ask for one in words as well."""
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
        return cls(
            "json_schema", schema, name, description, in_prompt=True, strict=strict
        )

    @classmethod
    def regex(cls, pattern: str) -> "AnswerFormat":
        """A regular expression without look-around, which the whole answer matches."""
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str) -> "AnswerFormat":
        """A context-free grammar in llguidance's Lark dialect; it begins at `start`."""
        return cls("lark", grammar)

    @classmethod
    def grammar(cls, text: str) -> "AnswerFormat":
        """A context-free grammar in Lark, or in llama.cpp's GBNF, from `root` on."""
        return cls("grammar", text)

    @classmethod
    def of(
        cls, value: "AnswerFormat | Mapping[str, Any] | None"
    ) -> "AnswerFormat | None":
        """Read a `response_format` as OpenAI's API has it; None for plain text.

        A `json_object` with a `schema`, as llama-server takes it and older clients
        send it, is that schema's.
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
        """What the instructions tell the model of it."""
        if not self.in_prompt:
            return None
        return ResponseFormat(self.name, self.source, self.description)


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What may be sampled; the defaults only keep out what is malformed.

    `enforce`: "all" binds headers and the arguments of calls, "headers" leaves the
    arguments free, "off" leaves everything to the model. `tool_choice` is auto, none,
    required, or the name of a tool; a call that is asked for comes behind one stretch
    of reasoning. `response_format` binds the answer (channel `final`) only;
    `max_reasoning_tokens` closes the reasoning of a turn and lets the answer follow.
    `loop_guard` ends text that goes in circles. `stop` are strings that end the
    answer; they are looked for on `final` only. `calls_on_analysis` lets a function
    call count there (only `enforce="off"` lets one be written).
    Raises PromptError for what contradicts itself.
    """

    enforce: Enforce = "all"
    tool_choice: str = AUTO
    parallel_tool_calls: bool = True
    response_format: AnswerFormat | None = None
    max_reasoning_tokens: int | None = None
    loop_guard: bool = True
    stop: tuple[str, ...] = ()
    calls_on_analysis: bool = True

    @property
    def forces_a_call(self) -> bool:
        return self.tool_choice not in (AUTO, NONE)

    def __post_init__(self) -> None:
        if self.enforce not in ENFORCE:
            raise PromptError(
                f"`enforce` is {self.enforce!r}: use {', '.join(map(repr, ENFORCE))}"
            )
        if isinstance(self.stop, str) or not all(self.stop):
            raise PromptError(f"`stop` is {self.stop!r}: give a tuple of strings")
        budget = self.max_reasoning_tokens
        if budget is not None and (type(budget) is not int or budget < 0):
            raise PromptError(
                f"`max_reasoning_tokens` is {budget!r}: give a whole number, 0 or more"
            )
        needs = [
            name
            for name, given in (
                ("tool_choice", self.tool_choice != AUTO),
                ("response_format", self.response_format is not None),
                ("max_reasoning_tokens", budget is not None),
            )
            if given
        ]
        if self.enforce == "off" and needs:
            raise PromptError(
                f"`{needs[0]}` cannot be kept with `enforce='off'`: use 'headers'"
            )


@dataclass(frozen=True)
class ToolConstraint:
    """Something that can be called: how it is addressed and what its text must be.

    `source` is the schema or grammar of its text; None means free text. "arguments"
    is a JSON schema whose fields may come in any order, `strict` as in AnswerFormat.
    """

    call: AllowedCall
    source: JsonSchema | str | None
    kind: Literal["arguments"] | FormatKind = "arguments"
    strict: bool = False


def function_constraints(
    tools: Iterable[ToolDescription], *, strict: Collection[str] = ()
) -> list[ToolConstraint]:
    """The functions a caller offers: called on commentary, with JSON or plain text.

    Those named in `strict` are called with what their schema allows to the letter.
    """
    return [
        _text_target(tool)
        if tool.takes_text
        else ToolConstraint(
            AllowedCall(FUNCTION_PREFIX + tool.wire_name),
            close_schema(tool.parameters),
            strict=tool.name in strict,
        )
        for tool in tools
    ]


def _text_target(tool: ToolDescription) -> ToolConstraint:
    grammar = tool.grammar
    recipient = FUNCTION_PREFIX + tool.wire_name
    call = AllowedCall(recipient, content_types=(), has_grammar=grammar is not None)
    return (
        ToolConstraint(call, grammar.source, grammar.kind)
        if grammar
        else ToolConstraint(call, None)
    )


def built_in_constraints(namespaces: Iterable[ToolNamespace]) -> list[ToolConstraint]:
    """Tools of the system message: called on analysis; without functions, with text.

    Fields that are not told are let through: the model was trained with more of them.
    """
    targets = []
    for space in namespaces:
        where = ("analysis", "commentary")
        for tool in space.tools:
            name = f"{wire_name(space.name)}.{tool.wire_name}"
            call = AllowedCall(name, where, JSON_CONTENT_TYPES + CODE_CONTENT_TYPES)
            targets.append(ToolConstraint(call, tool.parameters or ANY_OBJECT))
        if not space.tools:
            call = AllowedCall(
                wire_name(space.name), where, CODE_CONTENT_TYPES, has_grammar=False
            )
            targets.append(ToolConstraint(call, None))
    return targets


def close_schema(schema: JsonSchema | None) -> JsonSchema:
    """The schema of arguments: an object, of the named fields unless it says more."""
    if schema is None:
        return NO_ARGUMENTS
    object_only = {**schema, "type": "object"}
    named = isinstance(schema.get("properties"), Mapping)
    if not named or any(key in schema for key in NAMING_KEYWORDS):
        return object_only
    return {**_with_required(object_only), "additionalProperties": False}


def _with_required(schema: dict[str, Any]) -> dict[str, Any]:
    """Name the fields that a schema requires and does not describe."""
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    ghosts = {name: {} for name in names if isinstance(name, str)}
    return {**schema, "properties": {**ghosts, **schema["properties"]}}


def allowed_turn(
    constraints: Constraints, targets: Sequence[ToolConstraint]
) -> AllowedTurn:
    """What a turn may consist of. Raises PromptError if there is no tool to choose."""
    choice = constraints.tool_choice
    chosen = [] if choice == NONE else list(targets)
    if choice not in (AUTO, NONE, REQUIRED):
        names = (choice, FUNCTION_PREFIX + wire_name(choice))
        chosen = [target for target in targets if target.call.recipient in names]
    if not chosen and constraints.forces_a_call:
        known = ", ".join(f"`{target.call.recipient}`" for target in targets) or "none"
        raise PromptError(
            f"`tool_choice` is `{choice}`, but the tools on offer are: {known}"
        )
    forced = constraints.forces_a_call
    channels = ("analysis",) if forced else CHANNELS
    if constraints.max_reasoning_tokens == 0:
        channels = tuple(name for name in channels if name != "analysis")
    free = constraints.enforce == "headers"
    return AllowedTurn(
        channels=channels,
        calls=tuple(
            replace(target.call, has_grammar=False) if free else target.call
            for target in chosen
        ),
        parallel=constraints.parallel_tool_calls,
        forced=forced,
        final_has_grammar=constraints.response_format is not None,
    )
