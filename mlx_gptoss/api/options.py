"""Request options that several APIs share, read into those of the engine."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from mlx_gptoss.api.aliases import SAMPLING_FIELDS
from mlx_gptoss.api.efforts import EFFORT_BY_NAME, NO_REASONING
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_schema
from mlx_gptoss.api.sampling_fields import SamplingFields
from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.api.wire import ContinuationFields
from mlx_gptoss.chat.system_messages import system_messages
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, REQUIRED
from mlx_gptoss.harmony.json_text import Json
from mlx_gptoss.harmony.messages import (
    IDENTITY,
    Effort,
    Message,
    ToolDescription,
)
from mlx_gptoss.harmony.render.prompt import can_continue

MAX_BIAS = 100.0
MAX_NAME_CHARACTERS = 256
MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True)
class RequestTools:
    """The functions a request offers, and the types of its ignored tools."""

    descriptions: tuple[ToolDescription, ...] = ()
    strict: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolChoice:
    """Whether to call, and which tools may be called (None for all)."""

    choice: str = AUTO
    callable: frozenset[str] | None = None


def check_tools(tools: RequestTools, limits: RequestLimits) -> RequestTools:
    """Return `tools`. Raises ApiError (400) for too many or too large ones."""
    check_count("tools", len(tools.descriptions), limits.tools)
    names = [tool.wire_name for tool in tools.descriptions]
    for tool in tools.descriptions:
        if not 0 < len(tool.name) <= MAX_NAME_CHARACTERS:
            raise bad_request("a tool's name is too long", param="tools")
        if names.count(tool.wire_name) > 1:
            raise bad_request(
                f"two tools are named `{tool.name}`: rename one", param="tools"
            )
        if tool.parameters is not None:
            check_schema(f"tool `{tool.name}`", tool.parameters, limits)
    return tools


def read_tool_choice(choice: str | Json | None) -> ToolChoice:
    """Read `tool_choice` in the form of chat completions."""
    if choice is None:
        return ToolChoice()
    if isinstance(choice, str):
        if choice in (AUTO, NONE, REQUIRED):
            return ToolChoice(choice)
        raise bad_request(
            "`tool_choice` is auto, none, required, or an object", param="tool_choice"
        )
    kind = choice.get("type")
    if kind == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        entries = allowed.get("tools") if isinstance(allowed, Mapping) else None
        mode = allowed.get("mode", AUTO) if isinstance(allowed, Mapping) else None
        if isinstance(entries, list) and mode in (AUTO, REQUIRED):
            return ToolChoice(mode, frozenset(map(_tool_name, entries)))
    elif kind == "function":
        return ToolChoice(_tool_name(choice))
    raise bad_request(
        "`tool_choice` names no function: give "
        '{"type": "function", "function": {"name": ...}}',
        param="tool_choice",
    )


def read_answer_format(
    response_format: Json | None, limits: RequestLimits
) -> AnswerFormat | None:
    """Read a `response_format`. Raises ApiError (400) for a too large schema."""
    if response_format is None:
        return None
    answer_format = AnswerFormat.of(response_format)
    if answer_format is None or answer_format == AnswerFormat.json_object():
        return answer_format
    source = answer_format.source
    if answer_format.kind == "json_schema":
        check_schema("`response_format`", source, limits)
    elif len(source) > limits.schema_bytes:
        raise bad_request(
            f"the grammar of `response_format` has {len(source)} characters: "
            f"this server takes {limits.schema_bytes} at most",
            param="response_format",
        )
    return answer_format


def continues_answer(
    request: ContinuationFields, conversation: Sequence[Message], tool_choice: str
) -> bool:
    """Whether the last message is an answer for the model to continue.

    An assistant message at the end is continued unless the request says otherwise or
    requires a call. Raises ApiError (400) for a contradiction.
    """
    continues, starts = request.continue_final_message, request.add_generation_prompt
    field = "continue_final_message" if continues else "add_generation_prompt"
    if continues is not None and continues == starts:
        raise bad_request(
            "`continue_final_message` and `add_generation_prompt` contradict each "
            "other: set one of them to true, or leave both out",
            param="continue_final_message",
        )
    required = continues is True or starts is False
    possible = can_continue(conversation[-1])
    if required and not possible:
        raise bad_request(
            f"`{field}` asks to continue an answer: the last message must be the "
            "assistant's, with text and without calls",
            param=field,
        )
    if tool_choice not in (AUTO, NONE):
        if required:
            raise bad_request(
                f"`{field}` asks to continue an answer, and `tool_choice` for a call: "
                "leave out one of them",
                param=field,
            )
        return False
    return possible and continues is not False and starts is not True


def read_sampling_params(
    request: SamplingFields,
    settings: ServerSettings,
    *,
    max_tokens: int | None,
    top_logprobs: int = 0,
    prompt_logprobs: int | None = None,
    vocab_size: int | None = None,
) -> SamplingParams:
    """Read sampling fields; the operator's settings replace missing ones."""
    return replace(
        settings.sampling,
        **given_sampling_fields(request),
        max_tokens=max_tokens,
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
        logit_bias=read_logit_bias(request.logit_bias, vocab_size),
    )


def given_sampling_fields(request: object) -> dict[str, Any]:
    """Return the sampling fields that a request has, by name."""
    values = {name: getattr(request, name) for name in SAMPLING_FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def read_logit_bias(
    biases: Mapping[str, float] | None, vocab_size: int | None
) -> dict[int, float] | None:
    """Read biases by token id; JSON has the ids as strings."""
    if not biases:
        return None
    limit = MAX_TOKEN_ID if vocab_size is None else vocab_size
    out: dict[int, float] = {}
    for token, bias in biases.items():
        is_id = token.isascii() and token.isdigit() and len(token) < 12
        if not is_id or int(token) >= limit:
            raise bad_request(
                "`logit_bias` has a key that is no token id of this model",
                param="logit_bias",
            )
        if not abs(bias) <= MAX_BIAS:
            raise bad_request("`logit_bias` is from -100 to 100", param="logit_bias")
        out[int(token)] = bias
    return out


def initial_messages(
    settings: ServerSettings,
    *,
    effort: str | None,
    instructions: str,
    tools: Sequence[ToolDescription],
    answer_format: AnswerFormat | None,
) -> list[Message]:
    """Return the system message and, if it has content, the developer message."""
    return system_messages(
        identity=IDENTITY,
        date=conversation_date(settings),
        effort=gpt_oss_effort(effort),
        namespaces=(),
        instructions=instructions or None,
        functions=tools,
        response_format=answer_format,
    )


def conversation_date(settings: ServerSettings) -> str:
    return settings.date or datetime.date.today().isoformat()


def gpt_oss_effort(name: str | None) -> Effort:
    return EFFORT_BY_NAME[name or "medium"]


def read_reasoning_budget(
    effort: str | None, limits: Sequence[int | None], settings: ServerSettings
) -> tuple[int | None, bool]:
    """Return the limit of reasoning tokens, and whether it is a share of the room."""
    if effort == NO_REASONING:
        return 0, False
    given = [limit for limit in limits if limit is not None]
    if given:
        return min(given), False
    if settings.max_reasoning == "auto":
        return None, True
    return cast("int | None", settings.max_reasoning), False


def _tool_name(entry: Any) -> str:
    """Return the name in an entry of `tool_choice`."""
    if isinstance(entry, Mapping):
        function = entry.get("function", entry)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return function["name"]
    raise bad_request("`tool_choice` has an entry without a name", param="tool_choice")
