"""What a request for a message asks of the model."""

from dataclasses import dataclass, replace
from typing import Any

from mlx_gptoss.api import options as asking
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count, check_depth, read_stop_strings
from mlx_gptoss.api.messages.blocks import read_messages, system_text
from mlx_gptoss.api.messages.wire import CountTokensRequest, MessagesRequest
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, REQUIRED, Constraints
from mlx_gptoss.harmony.openai_chat import Restore

TOOL_CHOICES = {"auto": AUTO, "any": REQUIRED, "none": NONE}
SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "seed")
WITHOUT_EFFECT = ("metadata", "service_tier")
DISABLED, OMITTED = "disabled", "omitted"


@dataclass
class MessagesConversation:
    """A request, and how what it asks for is read."""

    request: CountTokensRequest
    restore: Restore | None = None

    def ask(self, runtime: Runtime, settings: ServerSettings) -> ConversationRequest:
        """Say what is asked; raises ApiError or PromptError."""
        request, limits = self.request, settings.limits
        check_shape(request, settings)
        tools = read_tools(request, settings)
        read = read_messages(request.messages, self.restore)
        budget, auto = self._budget(settings)
        form = request.output_config.format if request.output_config else None
        answer = asking.read_answer_format(form, limits)
        conversation = asking.opening_messages(
            settings,
            effort=self._effort,
            instructions=system_text(request.system),
            tools=tools.descriptions,
            answer=answer,
        )
        choice, parallel = read_tool_choice(request.tool_choice)
        stops = getattr(request, "stop_sequences", None)
        conversation += read.messages
        return ConversationRequest(
            conversation=conversation,
            begun=asking.continues_answer(request, conversation, choice),
            tools=tools.descriptions,
            strict_tools=tools.strict,
            params=sampling_params(request, settings),
            constraints=Constraints(
                tool_choice=choice,
                parallel_tool_calls=parallel,
                response_format=answer,
                max_reasoning_tokens=budget,
                loop_guard=settings.loop_guard,
                stop=read_stop_strings(stops, limits),
            ),
            auto_budget=auto,
            passed_over=tools.ignored,
            hidden=read.ignored,
        )

    @property
    def shows_thinking(self) -> bool:
        """Whether reasoning has blocks in the reply: clients have to ask for it."""
        thinking = self.request.thinking
        return thinking is not None and thinking.type != DISABLED

    @property
    def omits_thinking(self) -> bool:
        """Whether those blocks have a signature and no text."""
        thinking = self.request.thinking
        return thinking is not None and thinking.display == OMITTED

    @property
    def _effort(self) -> str | None:
        thinking, options = self.request.thinking, self.request.output_config
        if thinking is not None and thinking.type == DISABLED:
            return asking.NO_REASONING
        return options.effort if options else None

    def _budget(self, settings: ServerSettings) -> tuple[int | None, bool]:
        thinking = self.request.thinking
        own = thinking.budget_tokens if thinking else None
        asked = [own, self.request.max_reasoning_tokens]
        return asking.read_reasoning_budget(self._effort, asked, settings)


def read_tools(
    request: CountTokensRequest, settings: ServerSettings
) -> asking.OfferedTools:
    """The functions on offer; tools of other types are passed over."""
    descriptions, strict, others = [], set(), []
    for at, tool in enumerate(request.tools or ()):
        if tool.type not in (None, "custom"):
            others.append(tool.type)
            continue
        if not tool.name:
            raise bad_request(f"`tools[{at}]` has no `name`", param=f"tools[{at}].name")
        descriptions.append(
            m.ToolDescription(tool.name, tool.description or "", tool.input_schema)
        )
        if tool.strict:
            strict.add(tool.name)
    found = asking.OfferedTools(tuple(descriptions), frozenset(strict), tuple(others))
    return asking.check_tools(found, settings.limits)


def read_tool_choice(given: Any) -> tuple[str, bool]:
    """Return the choice, and whether several calls may come at once."""
    given = given or {"type": "auto"}
    parallel = given.get("disable_parallel_tool_use") is not True
    kind, name = given.get("type"), given.get("name")
    if kind == "tool" and isinstance(name, str) and name:
        return name, parallel
    if isinstance(kind, str) and kind in TOOL_CHOICES:
        return TOOL_CHOICES[kind], parallel
    raise bad_request(
        "`tool_choice` has type auto, any, none, or tool with a `name`",
        param="tool_choice",
    )


def sampling_params(
    request: CountTokensRequest, settings: ServerSettings
) -> SamplingParams:
    if not isinstance(request, MessagesRequest):
        return settings.sampling
    given: dict[str, Any] = {
        name: value
        for name in SAMPLING_FIELDS
        if (value := getattr(request, name)) is not None
    }
    return replace(settings.sampling, max_tokens=request.max_tokens, **given)


def check_shape(request: CountTokensRequest, settings: ServerSettings) -> None:
    """Raise ApiError (400) for what is too much or too deep."""
    limits = settings.limits
    check_count("messages", len(request.messages), limits.messages)
    for name in ("messages", "system", "tools", "tool_choice", "output_config"):
        value = getattr(request, name)
        plain = request.model_dump(include={name})[name] if value else None
        check_depth(name, plain, limits)


def fields_without_effect(request: CountTokensRequest) -> list[str]:
    """The fields of a request that change nothing."""
    given = [name for name in WITHOUT_EFFECT if getattr(request, name, None)]
    return [*request.ignored_fields, *given]
