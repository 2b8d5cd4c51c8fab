"""Parts of a request that several APIs share, as what the model is asked."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from mlx_gptoss.api.chat.wire import SamplingFields
from mlx_gptoss.api.efforts import EFFORT_BY_NAME, NO_REASONING
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_schema
from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.api.wire import ContinuationFields
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, REQUIRED, AnswerFormat
from mlx_gptoss.harmony.messages import (
    DeveloperContent,
    Effort,
    Message,
    ToolDescription,
    system,
)
from mlx_gptoss.harmony.render.prompt import can_continue

MAX_BIAS = 100.0
MAX_NAME_CHARACTERS = 256
MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True)
class OfferedTools:
    """The functions a request offers, and the types of what it offers beside them."""

    descriptions: tuple[ToolDescription, ...] = ()
    strict: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolChoice:
    """Which calls are wanted; `callable` None: of all tools."""

    choice: str = AUTO
    callable: frozenset[str] | None = None


def check_tools(tools: OfferedTools, limits: RequestLimits) -> OfferedTools:
    """Return `tools`; raises ApiError (400) for too many or too large ones."""
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


def read_tool_choice(given: str | Mapping[str, Any] | None) -> ToolChoice:
    """Read `tool_choice` in the forms of chat completions and of responses."""
    if given is None:
        return ToolChoice()
    if isinstance(given, str):
        if given in (AUTO, NONE, REQUIRED):
            return ToolChoice(given)
        raise bad_request(
            "`tool_choice` is auto, none, required, or an object", param="tool_choice"
        )
    kind = given.get("type")
    if kind == "allowed_tools":
        allowed = given.get("allowed_tools", given)
        entries = allowed.get("tools") if isinstance(allowed, Mapping) else None
        mode = allowed.get("mode", AUTO) if isinstance(allowed, Mapping) else None
        if isinstance(entries, list) and mode in (AUTO, REQUIRED):
            return ToolChoice(mode, frozenset(map(_tool_name, entries)))
    elif kind == "function":
        return ToolChoice(_tool_name(given))
    raise bad_request(
        "`tool_choice` names no function: give "
        '{"type": "function", "function": {"name": ...}}',
        param="tool_choice",
    )


def read_answer_format(
    given: Mapping[str, Any] | None, limits: RequestLimits
) -> AnswerFormat | None:
    """Read a `response_format`."""
    if given is None:
        return None
    found = AnswerFormat.of(given)
    if found is None or found == AnswerFormat.json_object():
        return found
    if found.kind == "json_schema":
        check_schema("`response_format`", found.source, limits)
    elif len(found.source) > limits.schema_bytes:
        raise bad_request(
            f"the grammar of `response_format` has {len(found.source)} characters: "
            f"this server takes {limits.schema_bytes} at most",
            param="response_format",
        )
    return found


def continues_answer(
    request: ContinuationFields, conversation: Sequence[Message], tool_choice: str
) -> bool:
    """Whether the last message is an answer that the model is to go on with.

    That is what an assistant's message at the end means, unless the request says
    otherwise or demands a call. Raises ApiError (400) for what contradicts itself.
    """
    continues, starts = request.continue_final_message, request.add_generation_prompt
    field = "continue_final_message" if continues else "add_generation_prompt"
    if continues is not None and continues == starts:
        raise bad_request(
            "`continue_final_message` and `add_generation_prompt` contradict each "
            "other: one of them is true, or leave both out",
            param="continue_final_message",
        )
    demanded = continues is True or starts is False
    begun = can_continue(conversation[-1])
    if demanded and not begun:
        raise bad_request(
            f"`{field}` asks to go on with a begun answer: the last message must be "
            "the assistant's, with text and without calls",
            param=field,
        )
    if tool_choice not in (AUTO, NONE):
        if demanded:
            raise bad_request(
                f"`{field}` asks to go on with a begun answer, and `tool_choice` for a "
                "call: leave out one of them",
                param=field,
            )
        return False
    return begun and continues is not False and starts is not True


def read_sampling_params(
    request: SamplingFields,
    settings: ServerSettings,
    *,
    max_tokens: int | None,
    top_logprobs: int = 0,
    vocab_size: int | None = None,
) -> SamplingParams:
    """Read how tokens are chosen; what is not given is as the operator chose."""
    given: dict[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p", "seed")
        if (value := getattr(request, name)) is not None
    }
    return replace(
        settings.sampling,
        **given,
        max_tokens=max_tokens,
        top_logprobs=top_logprobs,
        logit_bias=read_logit_bias(request.logit_bias, vocab_size),
    )


def read_logit_bias(
    given: Mapping[str, float] | None, vocab_size: int | None
) -> dict[int, float] | None:
    """Read a bias by token ids, which JSON has as text."""
    if not given:
        return None
    limit = MAX_TOKEN_ID if vocab_size is None else vocab_size
    out: dict[int, float] = {}
    for token, bias in given.items():
        known = token.isascii() and token.isdigit() and len(token) < 12
        if not known or int(token) >= limit:
            raise bad_request(
                "`logit_bias` has a key that is no token id of this model",
                param="logit_bias",
            )
        if not abs(bias) <= MAX_BIAS:
            raise bad_request("`logit_bias` is from -100 to 100", param="logit_bias")
        out[int(token)] = bias
    return out


def opening_messages(
    settings: ServerSettings,
    *,
    effort: str | None,
    instructions: str,
    tools: Sequence[ToolDescription],
    answer: AnswerFormat | None,
) -> list[Message]:
    """The messages before a conversation: the system's, and the developer's."""
    told = answer.prompt_format if answer else None
    content = DeveloperContent(
        instructions or None,
        tuple(tools),
        response_formats=(told,) if told else (),
    )
    today = settings.date or datetime.date.today().isoformat()
    first = system(gpt_oss_effort(effort), conversation_date=today)
    return [first] if content.empty else [first, Message("developer", content)]


def gpt_oss_effort(given: str | None) -> Effort:
    return EFFORT_BY_NAME[given or "medium"]


def read_reasoning_budget(
    effort: str | None, asked: Sequence[int | None], settings: ServerSettings
) -> tuple[int | None, bool]:
    """Return the limit of reasoning tokens, and whether a share of the room is it."""
    if effort == NO_REASONING:
        return 0, False
    given = [one for one in asked if one is not None]
    if given:
        return min(given), False
    if settings.max_reasoning == "auto":
        return None, True
    return cast("int | None", settings.max_reasoning), False


def _tool_name(entry: Any) -> str:
    """The name in an entry of `tool_choice`."""
    if isinstance(entry, Mapping):
        function = entry.get("function", entry)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return function["name"]
    raise bad_request("`tool_choice` has an entry without a name", param="tool_choice")
