"""Restrict the tools a turn may call, and the arguments of each call.

tools = function_constraints(descriptions) + built_in_constraints(namespaces)
turn = allowed_turn(Constraints(tool_choice="required"), tools)
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.answer_format import ANY_OBJECT, GrammarKind
from mlx_gptoss.harmony.constrain.automaton import (
    CODE_CONTENT_TYPES,
    JSON_CONTENT_TYPES,
    AllowedCall,
    AllowedTurn,
)
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, REQUIRED, Constraints
from mlx_gptoss.harmony.messages import (
    CHANNELS,
    FUNCTION_PREFIX,
    JsonSchema,
    ToolDescription,
    ToolNamespace,
    wire_name,
)

NAMING_KEYWORDS = (  # keywords that may define more fields
    *("additionalProperties", "$ref", "anyOf", "oneOf", "allOf", "if", "then", "else"),
    *("dependentSchemas", "dependencies", "unevaluatedProperties", "$dynamicRef"),
)
NO_ARGUMENTS: JsonSchema = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}


@dataclass(frozen=True)
class ToolConstraint:
    """A tool that may be called: its headers, and the grammar of its text.

    `source` is the schema or grammar of its text; None means free text. "arguments" is
    a JSON schema whose fields may come in any order; `strict` is as in AnswerFormat.
    """

    call: AllowedCall
    source: JsonSchema | str | None
    kind: GrammarKind = "arguments"
    strict: bool = False


def function_constraints(
    tools: Iterable[ToolDescription], *, strict: Collection[str] = ()
) -> list[ToolConstraint]:
    """Constrain the functions that a caller offers: JSON or text, on commentary.

    The schemas of those named in `strict` are enforced exactly.
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
    """Constrain the tools of the system message: called on analysis as well.

    Fields that are not in the schema are allowed: the model was trained with more of
    them. A namespace without functions is called with text.
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
    """Return the schema of arguments: an object of the named fields, unless open."""
    if schema is None:
        return NO_ARGUMENTS
    object_only = {**schema, "type": "object"}
    named = isinstance(schema.get("properties"), Mapping)
    if not named or any(key in schema for key in NAMING_KEYWORDS):
        return object_only
    return {**_with_required(object_only), "additionalProperties": False}


def _with_required(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the fields that a schema requires but does not describe."""
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    undescribed = {name: {} for name in names if isinstance(name, str)}
    return {**schema, "properties": {**undescribed, **schema["properties"]}}


def allowed_turn(
    constraints: Constraints, tools: Sequence[ToolConstraint]
) -> AllowedTurn:
    """Return what a turn may contain. Raises PromptError for an unknown tool."""
    choice = constraints.tool_choice
    chosen = [] if choice == NONE else list(tools)
    if choice not in (AUTO, NONE, REQUIRED):
        names = (choice, FUNCTION_PREFIX + wire_name(choice))
        chosen = [tool for tool in tools if tool.call.recipient in names]
    if not chosen and constraints.forces_a_call:
        known = ", ".join(f"`{tool.call.recipient}`" for tool in tools) or "none"
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
            replace(tool.call, has_grammar=False) if free else tool.call
            for tool in chosen
        ),
        parallel=constraints.parallel_tool_calls,
        forced=forced,
        final_has_grammar=constraints.response_format is not None,
    )
