"""Read a Responses request: what the model is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_gptoss.api import options
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_depth, read_stop_strings
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.responses.initial_reply import echo_tool
from mlx_gptoss.api.responses.item_fields import CONTINUES_ANSWER, is_reference
from mlx_gptoss.api.responses.items import FindItem, read_items
from mlx_gptoss.api.responses.kept_items import COMPACTION, superseded
from mlx_gptoss.api.responses.tool_choice import to_chat_tool_choice
from mlx_gptoss.api.responses.tools import ResponsesTools, read_tools
from mlx_gptoss.api.responses.wire import (
    ContextManagement,
    ResponsesInput,
    ResponsesRequest,
)
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.wire import JsonObject, wants_progress
from mlx_gptoss.chat.truncate import first_kept_message, max_prompt_tokens
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK
from mlx_gptoss.harmony.openai_chat import Restore

AUTO_TRUNCATE = "auto"
INCLUDE_LOGPROBS = "message.output_text.logprobs"
INCLUDE_ENCRYPTED = "reasoning.encrypted_content"
# Fields that this server accepts and that have no effect.
WITHOUT_EFFECT = (
    "max_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "stream_options",
    "user",
)


@dataclass
class ResponsesRequestReader:
    """A request and the items of previous responses; `read` fills in the rest.

    `items` are those of the request itself, without references, and `tool_echoes` its
    tools as the reply repeats them.
    """

    request: ResponsesInput
    earlier: Sequence[Any] = ()
    find: FindItem | None = None
    restore: Restore | None = None
    ignored_items: list[str] = field(default_factory=list)
    tools: ResponsesTools = field(default_factory=ResponsesTools)
    tool_echoes: list[JsonObject] = field(default_factory=list)
    conversation_request: ConversationRequest | None = None
    items: list[Any] = field(default_factory=list)
    compaction: JsonObject | None = None  # a summary of everything, read last

    def read(self, runtime: Runtime, settings: ServerSettings) -> ConversationRequest:
        """Read the whole request. Raises ApiError and PromptError."""
        request, limits = self.request, settings.limits
        items = resolve_references([*self.earlier, *input_items(request)], self.find)
        check_count("input", len(items), limits.messages)
        earlier = len(self.earlier)
        self.items = items[earlier:]
        self.tools = tools = read_tools(
            request.tools or (), items, limits, earlier=earlier
        )
        self.tool_echoes = [echo_tool(tool) for tool in request.tools or ()]
        if self.compaction is not None:
            items.append(self.compaction)
        parsed = read_items(
            items,
            earlier=earlier,
            tools=tools,
            restore=self.restore,
            find=self.find,
            skip=superseded(
                items,
                lambda text: len(runtime.tokenizer.encode(text)),
                runtime.longest_sequence,
            ),
        )
        self.ignored_items = parsed.ignored
        prepares = getattr(request, "generate", None) is False
        if not (parsed.messages or parsed.instructions or prepares):
            raise bad_request("there is no `input`: send a question", param="input")
        choice = options.read_tool_choice(
            to_chat_tool_choice(request.tool_choice, tools.names)
        )
        text_format = request.text.format if request.text else None
        answer_format = options.read_answer_format(text_format, limits)
        instructions = [request.instructions or "", *parsed.instructions]
        initial = options.initial_messages(
            settings,
            effort=request.reasoning.effort if request.reasoning else None,
            instructions=PARAGRAPH_BREAK.join(filter(None, instructions)),
            tools=tools.initial,
            answer_format=answer_format,
        )
        reasoning_limit, auto_limit = self._reasoning_budget(settings)
        conversation = [*initial, *parsed.messages]
        result = ConversationRequest(
            conversation=conversation,
            continues_answer=options.continues_answer(
                request, conversation, choice.choice
            ),
            tools=tools.offered.descriptions,
            strict_tools=tools.offered.strict,
            callable_tools=choice.callable,
            params=self._sampling_params(runtime, settings),
            constraints=Constraints(
                tool_choice=choice.choice,
                parallel_tool_calls=request.parallel_tool_calls is not False,
                response_format=answer_format,
                max_reasoning_tokens=reasoning_limit,
                loop_guard=settings.loop_guard,
                stop=read_stop_strings(request.stop, limits),
            ),
            auto_reasoning_limit=auto_limit,
            reports_progress=wants_progress(request),
        )
        if request.truncation == AUTO_TRUNCATE:
            result = truncate(result, runtime, initial, parsed.messages)
        self.conversation_request = result
        return result

    def _reasoning_budget(self, settings: ServerSettings) -> tuple[int | None, bool]:
        reasoning = self.request.reasoning
        if reasoning is None:
            return options.read_reasoning_budget(None, [], settings)
        limits = [reasoning.max_tokens]
        return options.read_reasoning_budget(reasoning.effort, limits, settings)

    def _sampling_params(
        self, runtime: Runtime, settings: ServerSettings
    ) -> SamplingParams:
        request, top_logprobs = self.request, 0
        if isinstance(request, ResponsesRequest) and wants_logprobs(request):
            top_logprobs = request.top_logprobs or 0
        return options.read_sampling_params(
            request,
            settings,
            max_tokens=request.max_output_tokens,
            top_logprobs=top_logprobs,
            vocab_size=runtime.tokenizer.vocab_size,
        )


def truncate(
    request: ConversationRequest,
    runtime: Runtime,
    initial: list[m.Message],
    messages: list[m.Message],
) -> ConversationRequest:
    """Drop the oldest turns of a conversation that has outgrown context or memory."""
    context = runtime.longest_sequence

    def prompt_tokens(first: int) -> int:
        shorter = replace(request, conversation=[*initial, *messages[first:]])
        try:
            return len(shorter.render(runtime))
        except LongPromptError as error:
            return error.tokens

    if context is None:
        return request
    if prompt_tokens(0) <= max_prompt_tokens(context, request.params.max_tokens):
        return request
    kept = messages[first_kept_message(messages, context, prompt_tokens) :]
    return replace(request, conversation=[*initial, *kept])


def input_items(request: ResponsesInput) -> list[Any]:
    """Return the input as items; a string is a message of the user."""
    if isinstance(request.input, str):
        return [{"type": "message", "role": "user", "content": request.input}]
    return list(request.input or ())


def resolve_references(items: Sequence[Any], find: FindItem | None) -> list[Any]:
    """Replace references by the items they mean.

    An item of this conversation takes precedence over a stored one with the same id.
    """
    known: dict[str, Any] = {}
    resolved: list[Any] = []
    for item in items:
        if is_reference(item):
            id = str(item.get("id"))
            found = known.get(id) or (find(id) if find else None) or item
            item = {k: value for k, value in found.items() if k != CONTINUES_ANSWER}
        elif isinstance(item, Mapping) and isinstance(item.get("id"), str):
            known[item["id"]] = item
        resolved.append(item)
    return resolved


def check_supported(request: ResponsesInput, settings: ServerSettings) -> None:
    """Raise ApiError (400) for unsupported fields and for deep nesting."""
    if request.conversation is not None:
        raise bad_request(
            "`conversation` is not supported: use `previous_response_id`, or send the "
            "items",
            param="conversation",
        )
    if request.prompt is not None:
        raise bad_request(
            "`prompt` names a template, and this server has none: send `instructions` "
            "and `input`",
            param="prompt",
        )
    if isinstance(request, ResponsesRequest) and request.background:
        raise bad_request(
            "`background` is not supported: leave it out, or use `stream`",
            param="background",
        )
    for name, value in (
        ("input", request.input),
        ("tools", request.tools),
        ("tool_choice", request.tool_choice),
        ("text", request.text and request.text.format),
    ):
        check_depth(name, value, settings.limits)


def wants_logprobs(request: ResponsesRequest) -> bool:
    return INCLUDE_LOGPROBS in (request.include or ()) or bool(request.top_logprobs)


def wants_encrypted_reasoning(request: ResponsesRequest) -> bool:
    return INCLUDE_ENCRYPTED in (request.include or ())


def fields_without_effect(request: ResponsesInput) -> list[str]:
    """Return the names of the fields that change nothing."""
    accepted = [
        name
        for name in WITHOUT_EFFECT
        if getattr(request, name, None) not in (None, {})
    ]
    verbosity = request.text.verbosity if request.text else None
    managed = getattr(request, "context_management", None) or ()
    return [
        *request.ignored_fields,
        *accepted,
        *(["context_management"] if any(map(is_unknown, managed)) else []),
        *(["verbosity"] if verbosity else []),
    ]


def is_unknown(entry: ContextManagement) -> bool:
    """Whether this server cannot do what is asked for long conversations."""
    return entry.type != COMPACTION
