"""Read a chat completion: a request to what the model is asked."""

from mlx_gptoss.api import options
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_maximum, read_stop_strings
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.wire import wants_progress
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.openai_chat import (
    Restore,
    from_chat_messages,
    hidden_parts,
    read_tool,
)


def read_request(
    request: ChatRequest,
    runtime: Runtime,
    settings: ServerSettings,
    restore: Restore | None = None,
) -> ConversationRequest:
    """Read a whole request. Raises ApiError and PromptError.

    `restore` may put back the reasoning of calls that came without it.
    """
    limits = settings.limits
    check_count("messages", len(request.messages), limits.messages)
    check_maximum("n", request.n or 1, limits.choices)
    tools = read_tools(request, settings)
    choice = options.read_tool_choice(request.tool_choice)
    reasoning_limit, auto_limit = reasoning_budget(request, settings)
    constraints = Constraints(
        tool_choice=choice.choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        response_format=options.read_answer_format(request.response_format, limits),
        max_reasoning_tokens=reasoning_limit,
        loop_guard=settings.loop_guard,
        stop=read_stop_strings(request.stop, limits),
    )
    conversation = read_conversation(request, tools, settings, restore)
    return ConversationRequest(
        conversation=conversation,
        continues_answer=options.continues_answer(request, conversation, choice.choice),
        tools=tools.descriptions,
        strict_tools=tools.strict,
        callable_tools=choice.callable,
        params=sampling_params(request, runtime, settings),
        constraints=constraints,
        auto_reasoning_limit=auto_limit,
        choices=request.n or 1,
        reports_progress=wants_progress(request),
        ignored_tools=tools.ignored,
        hidden_parts=hidden_parts(request.plain_messages),
    )


def read_tools(request: ChatRequest, settings: ServerSettings) -> options.RequestTools:
    """Read the functions on offer; tools of other types are ignored."""
    descriptions, strict, ignored = [], set(), []
    for index, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            ignored.append(tool.type)
        elif tool.function is None:
            raise bad_request(f"tools[{index}] has no `function`", param="tools")
        else:
            descriptions.append(read_tool(tool.model_dump(), f"tools[{index}]"))
            if tool.function.strict:
                strict.add(tool.function.name)
    tools = options.RequestTools(tuple(descriptions), frozenset(strict), tuple(ignored))
    return options.check_tools(tools, settings.limits)


def read_conversation(
    request: ChatRequest,
    tools: options.RequestTools,
    settings: ServerSettings,
    restore: Restore | None,
) -> list[Message]:
    return from_chat_messages(
        request.plain_messages,
        tools=tools.descriptions,
        response_format=request.response_format,
        effort=options.gpt_oss_effort(requested_effort(request)),
        conversation_date=options.conversation_date(settings),
        restore=restore,
    )


def requested_effort(request: ChatRequest) -> str | None:
    nested = request.reasoning.effort if request.reasoning else None
    return request.reasoning_effort or nested


def reasoning_budget(
    request: ChatRequest, settings: ServerSettings
) -> tuple[int | None, bool]:
    nested = request.reasoning.max_tokens if request.reasoning else None
    limits = [request.max_reasoning_tokens, nested]
    return options.read_reasoning_budget(requested_effort(request), limits, settings)


def sampling_params(
    request: ChatRequest, runtime: Runtime, settings: ServerSettings
) -> SamplingParams:
    top_logprobs = request.top_logprobs or 0
    if top_logprobs and not request.logprobs:
        raise bad_request("`top_logprobs` needs `logprobs`", param="top_logprobs")
    if request.stream and request.prompt_logprobs is not None:
        raise bad_request(
            "`prompt_logprobs` is not in streams: leave out `stream`",
            param="prompt_logprobs",
        )
    return options.read_sampling_params(
        request,
        settings,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        top_logprobs=top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        vocab_size=runtime.tokenizer.vocab_size,
    )
