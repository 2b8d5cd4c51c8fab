"""What a request for a response asks of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_gptoss.api import options as asking
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_depth, read_stop_strings
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.responses.items import (
    CONTINUES_ANSWER,
    PARAGRAPH_BREAK,
    FindItem,
    is_reference,
    read_items,
)
from mlx_gptoss.api.responses.tool_choice import to_chat_tool_choice
from mlx_gptoss.api.responses.tools import ResponsesTools, read_tools
from mlx_gptoss.api.responses.wire import ResponsesInput, ResponsesRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.chat.truncate import first_kept_message, max_prompt_tokens
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.openai_chat import Restore

AUTO_TRUNCATE = "auto"
INCLUDE_LOGPROBS = "message.output_text.logprobs"
INCLUDE_ENCRYPTED = "reasoning.encrypted_content"
# Fields that this server takes and that change nothing.
WITHOUT_EFFECT = (
    "max_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "stream_options",
    "user",
)


@dataclass
class ResponsesConversation:
    """A request and what came before it: the items that earlier responses left."""

    request: ResponsesInput
    earlier: Sequence[Any] = ()
    find: FindItem | None = None
    restore: Restore | None = None
    ignored_items: list[str] = field(default_factory=list)
    offer: ResponsesTools = field(default_factory=ResponsesTools)  # the tools
    asked: ConversationRequest | None = None  # what it became
    items: list[Any] = field(default_factory=list)  # of this request itself, then

    def ask(self, runtime: Runtime, settings: ServerSettings) -> ConversationRequest:
        """Say what is asked; raises ApiError or PromptError."""
        request, limits = self.request, settings.limits
        items = resolve_references([*self.earlier, *input_items(request)], self.find)
        check_count("input", len(items), limits.messages)
        earlier = len(self.earlier)
        self.items = items[earlier:]
        tools = request.tools or ()
        self.offer = offer = read_tools(tools, items, limits, earlier=earlier)
        read = read_items(
            items,
            earlier=earlier,
            offer=offer,
            restore=self.restore,
            find=self.find,
        )
        self.ignored_items = read.ignored
        if not read.messages and not read.instructions:
            raise bad_request("there is no `input`: send a question", param="input")
        choice = asking.read_tool_choice(
            to_chat_tool_choice(request.tool_choice, offer.names)
        )
        form = request.text.format if request.text else None
        answer = asking.read_answer_format(form, limits)
        said = [request.instructions or "", *read.instructions]
        opening = asking.opening_messages(
            settings,
            effort=request.reasoning.effort if request.reasoning else None,
            instructions=PARAGRAPH_BREAK.join(filter(None, said)),
            tools=offer.opening,
            answer=answer,
        )
        budget, auto = self._budget(settings)
        conversation = [*opening, *read.messages]
        self.asked = ConversationRequest(
            conversation=conversation,
            begun=asking.continues_answer(request, conversation, choice.choice),
            tools=offer.offered.descriptions,
            strict_tools=offer.offered.strict,
            callable_tools=choice.callable,
            params=self._params(runtime, settings),
            constraints=Constraints(
                tool_choice=choice.choice,
                parallel_tool_calls=request.parallel_tool_calls is not False,
                response_format=answer,
                max_reasoning_tokens=budget,
                loop_guard=settings.loop_guard,
                stop=read_stop_strings(request.stop, limits),
            ),
            auto_budget=auto,
        )
        if request.truncation == AUTO_TRUNCATE:
            self.asked = truncate(self.asked, runtime, opening, read.messages)
        return self.asked

    def _budget(self, settings: ServerSettings) -> tuple[int | None, bool]:
        given = self.request.reasoning
        if given is None:
            return asking.read_reasoning_budget(None, [], settings)
        return asking.read_reasoning_budget(given.effort, [given.max_tokens], settings)

    def _params(self, runtime: Runtime, settings: ServerSettings) -> Any:
        request, top = self.request, 0
        if isinstance(request, ResponsesRequest) and wants_logprobs(request):
            top = request.top_logprobs or 0
        return asking.read_sampling_params(
            request,
            settings,
            max_tokens=request.max_output_tokens,
            top_logprobs=top,
            vocab_size=runtime.tokenizer.vocab_size,
        )


def truncate(
    ask: ConversationRequest,
    runtime: Runtime,
    opening: list[m.Message],
    messages: list[m.Message],
) -> ConversationRequest:
    """Leave out the oldest turns of a conversation that has outgrown the context."""
    context = runtime.context

    def size(kept_from: int) -> int:
        shown = replace(ask, conversation=[*opening, *messages[kept_from:]])
        try:
            return len(shown.rendered(runtime))
        except LongPromptError as error:
            return error.tokens

    if context is None or size(0) <= max_prompt_tokens(context, ask.params.max_tokens):
        return ask
    kept = messages[first_kept_message(messages, context, size) :]
    return replace(ask, conversation=[*opening, *kept])


def input_items(request: ResponsesInput) -> list[Any]:
    if isinstance(request.input, str):
        return [{"type": "message", "role": "user", "content": request.input}]
    return list(request.input or ())


def resolve_references(items: Sequence[Any], find: FindItem | None) -> list[Any]:
    """Return items with what they mean in the place of references.

    An item of this conversation goes before what others call by the same id.
    """
    known: dict[str, Any] = {}
    out: list[Any] = []
    for item in items:
        if is_reference(item):
            id = str(item.get("id"))
            found = known.get(id) or (find(id) if find else None) or item
            item = {
                key: value for key, value in found.items() if key != CONTINUES_ANSWER
            }
        elif isinstance(item, Mapping) and isinstance(item.get("id"), str):
            known[item["id"]] = item
        out.append(item)
    return out


def check_supported(request: ResponsesInput, settings: ServerSettings) -> None:
    """Raise ApiError (400) for what this server does not do, and for odd shapes."""
    if request.conversation is not None:
        raise bad_request(
            "`conversation` is not served here: use `previous_response_id`, or send "
            "the items",
            param="conversation",
        )
    if request.prompt is not None:
        raise bad_request(
            "`prompt` names a template, which this server has none of: send "
            "`instructions` and `input`",
            param="prompt",
        )
    if isinstance(request, ResponsesRequest) and request.background:
        raise bad_request(
            "`background` is not served here: leave it out, or use `stream`",
            param="background",
        )
    tools = [one.model_dump() for one in request.tools or ()]
    for name, value in (
        ("input", request.input),
        ("tools", tools),
        ("tool_choice", request.tool_choice),
        ("text", request.text and request.text.format),
    ):
        check_depth(name, value, settings.limits)


def wants_logprobs(request: ResponsesRequest) -> bool:
    return INCLUDE_LOGPROBS in (request.include or ()) or bool(request.top_logprobs)


def wants_sealed(request: ResponsesRequest) -> bool:
    return INCLUDE_ENCRYPTED in (request.include or ())


def fields_without_effect(request: ResponsesInput) -> list[str]:
    """The fields of a request that change nothing."""
    given = [n for n in WITHOUT_EFFECT if getattr(request, n, None) not in (None, {})]
    verbosity = request.text.verbosity if request.text else None
    return [
        *request.ignored_fields,
        *given,
        *(["verbosity"] if verbosity else []),
    ]
