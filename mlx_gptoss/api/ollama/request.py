"""Read requests of chat and generate: as a chat completion, or as a raw completion.

Ollama's fields are aliases of those APIs (see `aliases.py`), so that the same request
is the same prompt on each of them.
"""

from dataclasses import replace
from typing import Any

from mlx_gptoss.api.chat.request import read_request
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.completions.request import read_prompts
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.generation import PreparedPrompt
from mlx_gptoss.api.limits import check_count
from mlx_gptoss.api.ollama.wire import (
    NO_LIMIT,
    OllamaCalledFunction,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaGenerationBody,
    OllamaMessage,
)
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.harmony.parse.parser import Parser

TEXT_ONLY = "gpt-oss reads text only"


def read_chat(
    body: OllamaChatRequest,
    runtime: Runtime,
    settings: ServerSettings,
    restore: Restore | None = None,
) -> ConversationRequest:
    """Read a conversation. Raises ApiError and PromptError.

    `restore` may put back the reasoning of calls that came without it.
    """
    messages = [chat_message(message) for message in body.messages or ()]
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    chat = chat_request(body, messages, tools=tools)
    return read_request(chat, runtime, settings, restore)


def read_question(
    body: OllamaGenerateRequest, runtime: Runtime, settings: ServerSettings
) -> ConversationRequest:
    """Read the prompt of generate as a question. Raises ApiError and PromptError."""
    refuse_unsupported(body)
    messages = [{"role": "user", "content": body.prompt}]
    if body.system:
        messages.insert(0, {"role": "system", "content": body.system})
    request = read_request(chat_request(body, messages), runtime, settings)
    if not body.context:
        return request
    check_count("context", len(body.context), runtime.context or len(body.context))
    earlier = context_messages(body.context, runtime)
    system, *question = request.conversation
    return replace(request, conversation=[system, *earlier, *question])


def read_raw(
    body: OllamaGenerateRequest, runtime: Runtime, settings: ServerSettings
) -> list[PreparedPrompt]:
    """Read a prompt that is continued as it is. Raises ApiError and PromptError."""
    refuse_unsupported(body)
    if body.system or body.context:
        raise bad_request("`raw` takes no `system` and no `context`", param="raw")
    fields = shared_fields(body) | {"prompt": body.prompt, "parse_special": True}
    fields.pop("think", None)
    top = fields.pop("top_logprobs", 0)
    fields["logprobs"] = top if fields.get("logprobs") else None
    fields["options"] = {"num_predict": NO_LIMIT} | fields.get("options", {})
    return read_prompts(CompletionRequest.model_validate(fields), runtime, settings)


def chat_request(
    body: OllamaGenerationBody, messages: list[dict[str, Any]], **more: Any
) -> ChatRequest:
    """Return the chat completion that a request asks for."""
    return ChatRequest.model_validate(
        shared_fields(body) | {"messages": messages} | more
    )


def shared_fields(body: OllamaGenerationBody) -> dict[str, Any]:
    """Return the fields that have the same meaning in other APIs, if they are given."""
    names = ("think", "format", "logprobs", "top_logprobs", "return_progress")
    fields = {name: getattr(body, name) for name in names}
    if body.options is not None:
        fields["options"] = body.options.given
    given = {name: value for name, value in fields.items() if value is not None}
    return given | {"stream": body.streams}


def chat_message(message: OllamaMessage) -> dict[str, Any]:
    """Return a message in the form of chat completions."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        images = [{"type": "image"} for _ in message.images]
        out["content"] = [{"type": "text", "text": message.content or ""}, *images]
    if message.thinking:
        out["reasoning"] = message.thinking
    if message.tool_calls:
        out["tool_calls"] = [
            {"id": call.id, "function": _called(call.function)}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        out |= {"name": message.tool_name, "tool_call_id": message.tool_call_id or None}
    return out


def refuse_unsupported(body: OllamaGenerateRequest) -> None:
    """Raise ApiError (400) for what gpt-oss cannot do."""
    if body.images:
        raise bad_request(f"`images`: {TEXT_ONLY}", param="images")
    if body.suffix:
        raise bad_request(
            "`suffix` is not supported: gpt-oss can only continue a prompt",
            param="suffix",
        )
    if body.template:
        raise bad_request(
            "`template` is not supported: gpt-oss has one format, Harmony; write the "
            "whole prompt yourself with `raw`",
            param="template",
        )


def context_messages(context: list[int], runtime: Runtime) -> list[Message]:
    """Return the messages of a `context`, without its system message.

    Raises ApiError (400) for ids that are no conversation of this model.
    """
    size = runtime.tokenizer.vocab_size
    if any(token >= size for token in context):
        raise bad_request("`context` has no ids of this model", param="context")
    parser = Parser(runtime.tokenizer, role=None)
    for token in context:
        parser.feed(token)
    parser.finish()
    if not parser.messages or parser.repairs:
        raise bad_request(
            "`context` is not that of an earlier reply of this model", param="context"
        )
    return [one for one in parser.messages if one.role != "system"]


def _called(function: OllamaCalledFunction) -> dict[str, str]:
    """Return a called function with its arguments as text."""
    arguments = function.arguments
    text = arguments if isinstance(arguments, str) else json_text(arguments or {})
    return {"name": function.name, "arguments": text}
