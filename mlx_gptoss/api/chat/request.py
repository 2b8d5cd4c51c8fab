"""A chat completion to what the model is asked; knows nothing of HTTP."""

import datetime
from typing import Any

from mlx_gptoss.api import options as asking
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_maximum, read_stop_strings
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
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
    """Say what a request asks of the model; raises ApiError or PromptError.

    `restore` may put back the reasoning that calls came without.
    """
    limits = settings.limits
    check_count("messages", len(request.messages), limits.messages)
    check_maximum("n", request.n or 1, limits.choices)
    tools = read_tools(request, settings)
    choice = asking.read_tool_choice(request.tool_choice)
    budget, auto = reasoning_budget(request, settings)
    constraints = Constraints(
        tool_choice=choice.choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        response_format=asking.read_answer_format(request.response_format, limits),
        max_reasoning_tokens=budget,
        loop_guard=settings.loop_guard,
        stop=read_stop_strings(request.stop, limits),
    )
    conversation = read_conversation(request, tools, settings, restore)
    return ConversationRequest(
        conversation=conversation,
        begun=asking.continues_answer(request, conversation, choice.choice),
        tools=tools.descriptions,
        strict_tools=tools.strict,
        callable_tools=choice.callable,
        params=sampling_params(request, runtime, settings),
        constraints=constraints,
        auto_budget=auto,
        choices=request.n or 1,
        passed_over=tools.ignored,
        hidden=hidden_parts(request.plain_messages),
    )


def read_tools(request: ChatRequest, settings: ServerSettings) -> asking.OfferedTools:
    """The functions on offer; tools of other types are passed over."""
    descriptions, strict, others = [], set(), []
    for at, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            others.append(tool.type)
        elif tool.function is None:
            raise bad_request(f"tools[{at}] has no `function`", param="tools")
        else:
            descriptions.append(read_tool(tool.model_dump(), f"tools[{at}]"))
            if tool.function.strict:
                strict.add(tool.function.name)
    found = asking.OfferedTools(tuple(descriptions), frozenset(strict), tuple(others))
    return asking.check_tools(found, settings.limits)


def read_conversation(
    request: ChatRequest,
    tools: asking.OfferedTools,
    settings: ServerSettings,
    restore: Restore | None,
) -> list[Message]:
    today = settings.date or datetime.date.today().isoformat()
    return from_chat_messages(
        request.plain_messages,
        tools=[
            {"name": t.name, "description": t.description, "parameters": t.parameters}
            for t in tools.descriptions
        ],
        response_format=request.response_format,
        effort=asking.gpt_oss_effort(requested_effort(request)),
        conversation_date=today,
        restore=restore,
    )


def requested_effort(request: ChatRequest) -> str | None:
    nested = request.reasoning.effort if request.reasoning else None
    return request.reasoning_effort or nested


def reasoning_budget(
    request: ChatRequest, settings: ServerSettings
) -> tuple[int | None, bool]:
    nested = request.reasoning.max_tokens if request.reasoning else None
    asked = [request.max_reasoning_tokens, nested]
    return asking.read_reasoning_budget(requested_effort(request), asked, settings)


def sampling_params(
    request: ChatRequest, runtime: Runtime, settings: ServerSettings
) -> Any:
    top = request.top_logprobs or 0
    if top and not request.logprobs:
        raise bad_request("`top_logprobs` needs `logprobs`", param="top_logprobs")
    return asking.read_sampling_params(
        request,
        settings,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        top_logprobs=top,
        vocab_size=runtime.tokenizer.vocab_size,
    )
