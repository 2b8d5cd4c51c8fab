"""Read a Messages request: what the model is asked."""

from dataclasses import replace

from mlx_gptoss.api import options
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_depth, read_stop_strings
from mlx_gptoss.api.messages.blocks import read_messages, system_text
from mlx_gptoss.api.messages.wire import CountTokensRequest, MessagesRequest
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.wire import wants_progress
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, REQUIRED, Constraints
from mlx_gptoss.harmony.json_text import Json
from mlx_gptoss.harmony.messages import ToolDescription
from mlx_gptoss.harmony.openai_chat import Restore

TOOL_CHOICES = {"auto": AUTO, "any": REQUIRED, "none": NONE}
FIELDS_WITHOUT_EFFECT = ("metadata", "service_tier")
DISABLED, OMITTED = "disabled", "omitted"


def read_request(
    request: CountTokensRequest,
    runtime: Runtime,
    settings: ServerSettings,
    restore: Restore | None = None,
) -> ConversationRequest:
    """Read a whole request. Raises ApiError and PromptError.

    `restore` may put back the reasoning of calls that came without it.
    """
    limits = settings.limits
    check_shape(request, settings)
    tools = read_tools(request, settings)
    parsed = read_messages(request.messages, restore)
    reasoning_limit, auto_limit = reasoning_budget(request, settings)
    output_format = request.output_config.format if request.output_config else None
    answer_format = options.read_answer_format(output_format, limits)
    conversation = options.initial_messages(
        settings,
        effort=requested_effort(request),
        instructions=system_text(request.system),
        tools=tools.descriptions,
        answer_format=answer_format,
    )
    conversation += parsed.messages
    choice, parallel = read_tool_choice(request.tool_choice)
    stop_sequences = getattr(request, "stop_sequences", None)
    return ConversationRequest(
        conversation=conversation,
        continues_answer=options.continues_answer(request, conversation, choice),
        tools=tools.descriptions,
        strict_tools=tools.strict,
        params=sampling_params(request, settings),
        constraints=Constraints(
            tool_choice=choice,
            parallel_tool_calls=parallel,
            response_format=answer_format,
            max_reasoning_tokens=reasoning_limit,
            loop_guard=settings.loop_guard,
            stop=read_stop_strings(stop_sequences, limits),
        ),
        auto_reasoning_limit=auto_limit,
        reports_progress=wants_progress(request),
        ignored_tools=tools.ignored,
        hidden_parts=parsed.ignored,
    )


def check_shape(request: CountTokensRequest, settings: ServerSettings) -> None:
    """Raise ApiError (400) for too many messages and for deep nesting."""
    limits = settings.limits
    check_count("messages", len(request.messages), limits.messages)
    for name in ("messages", "system", "tools", "tool_choice", "output_config"):
        check_depth(name, getattr(request, name), limits)


def read_tools(
    request: CountTokensRequest, settings: ServerSettings
) -> options.RequestTools:
    """Read the functions on offer; tools of other types are ignored."""
    descriptions, strict, ignored = [], set(), []
    for index, tool in enumerate(request.tools or ()):
        if tool.type not in (None, "custom"):
            ignored.append(tool.type)
            continue
        if not tool.name:
            path = f"tools[{index}]"
            raise bad_request(f"`{path}` has no `name`", param=f"{path}.name")
        descriptions.append(
            ToolDescription(tool.name, tool.description or "", tool.input_schema)
        )
        if tool.strict:
            strict.add(tool.name)
    tools = options.RequestTools(tuple(descriptions), frozenset(strict), tuple(ignored))
    return options.check_tools(tools, settings.limits)


def read_tool_choice(choice: Json | None) -> tuple[str, bool]:
    """Return the choice, and whether calls may be parallel."""
    choice = choice or {"type": "auto"}
    parallel = choice.get("disable_parallel_tool_use") is not True
    kind, name = choice.get("type"), choice.get("name")
    if kind == "tool" and isinstance(name, str) and name:
        return name, parallel
    if isinstance(kind, str) and kind in TOOL_CHOICES:
        return TOOL_CHOICES[kind], parallel
    raise bad_request(
        "`tool_choice` has type auto, any, none, or tool with a `name`",
        param="tool_choice",
    )


def requested_effort(request: CountTokensRequest) -> str | None:
    thinking, output_config = request.thinking, request.output_config
    if thinking is not None and thinking.type == DISABLED:
        return options.NO_REASONING
    return output_config.effort if output_config else None


def reasoning_budget(
    request: CountTokensRequest, settings: ServerSettings
) -> tuple[int | None, bool]:
    budget = request.thinking.budget_tokens if request.thinking else None
    limits = [budget, request.max_reasoning_tokens]
    return options.read_reasoning_budget(requested_effort(request), limits, settings)


def sampling_params(
    request: CountTokensRequest, settings: ServerSettings
) -> SamplingParams:
    if not isinstance(request, MessagesRequest):
        return settings.sampling
    fields = options.given_sampling_fields(request)
    return replace(settings.sampling, max_tokens=request.max_tokens, **fields)


def shows_thinking(request: CountTokensRequest) -> bool:
    """Whether the reply has thinking blocks: clients have to ask for them."""
    return request.thinking is not None and request.thinking.type != DISABLED


def omits_thinking(request: CountTokensRequest) -> bool:
    """Whether thinking blocks have a signature but no text."""
    return request.thinking is not None and request.thinking.display == OMITTED


def fields_without_effect(request: CountTokensRequest) -> list[str]:
    """Return the names of the fields that change nothing."""
    accepted = [name for name in FIELDS_WITHOUT_EFFECT if getattr(request, name, None)]
    return [*request.ignored_fields, *accepted]
