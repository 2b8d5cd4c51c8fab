"""What is wanted of the model, whatever the protocol, and the prompt it becomes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mlx_gptoss.api.errors import context_exceeded
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt
from mlx_gptoss.api.text_parser import HarmonyAnswerParser
from mlx_gptoss.engine.generate import default_reasoning_budget, resolve_max_tokens
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.outputs import CANCELLED
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.constrain.constraints import (
    Constraints,
    ToolConstraint,
    function_constraints,
)
from mlx_gptoss.harmony.messages import FUNCTION_PREFIX, Message, ToolDescription
from mlx_gptoss.harmony.render.prompt import (
    Vocabulary,
    continuation_pieces,
    encode_pieces,
    encode_within,
    history_pieces,
    render_messages,
)

MAX_CONTEXTS_COUNTED = 4  # contexts, to which a prompt is counted that is only shown


@dataclass(frozen=True, kw_only=True)
class ConversationRequest:
    """A conversation and how it should go on.

    `conversation` is complete, the system message first. With `begun` its last message
    is an answer that goes on. `tools` are those it offers
    as functions; `strict_tools` are the names of those whose schema must be kept to
    the letter or refused; `callable_tools` those that may be called now, None for
    all. `auto_budget` leaves a part of the room for the answer. With several
    `choices` each draws with a seed of its own: the given one, and those after it.
    `passed_over` are types of tools, and `hidden` of parts, that are not shown.
    """

    conversation: Sequence[Message]
    begun: bool = False
    tools: Sequence[ToolDescription] = ()
    strict_tools: frozenset[str] = frozenset()
    callable_tools: frozenset[str] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    constraints: Constraints = field(default_factory=Constraints)
    auto_budget: bool = False
    choices: int = 1
    passed_over: Sequence[str] = ()
    hidden: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Characters of the conversation, but for the developer's."""
        return sum(len(message.text) for message in self.conversation)

    @property
    def compiles(self) -> bool:
        """Whether something that the client sent has to be compiled."""
        return bool(self.tools) or self.constraints.response_format is not None

    def rendered(self, runtime: Runtime) -> list[int]:
        """The exact prompt. Raises LongPromptError if it fills the context."""
        pieces = history_pieces(self.conversation, continue_last=self.begun)
        return encode_within(pieces, runtime.tokenizer, runtime.context)

    def counted(self, runtime: Runtime) -> list[int]:
        """The exact prompt, also one that fills the context.

        Raises LongPromptError for what could never fit, or is far too long.
        """
        pieces = history_pieces(self.conversation, continue_last=self.begun)
        context = runtime.context
        most = None if context is None else context * MAX_CONTEXTS_COUNTED
        return encode_within(pieces, runtime.tokenizer, context, count_to=most)

    @property
    def history(self) -> Sequence[Message]:
        """What stands before the answer."""
        return self.conversation[:-1] if self.begun else self.conversation

    def begun_ids(self, vocabulary: Vocabulary) -> list[int]:
        """What the prompt holds of the answer."""
        if not self.begun:
            return []
        return encode_pieces(continuation_pieces(self.conversation[-1]), vocabulary)

    def targets(self) -> list[ToolConstraint]:
        """What may be called."""
        tools = [
            tool
            for tool in self.tools
            if self.callable_tools is None or tool.name in self.callable_tools
        ]
        return function_constraints(tools, strict=self.strict_tools)


def prepare_prompts(ask: ConversationRequest, runtime: Runtime) -> list[PreparedPrompt]:
    """Render a conversation and compile what binds the answer, for each choice.

    Raises ApiError for a prompt that fills the context, and PromptError.
    """
    ids = ask.rendered(runtime)
    check_prompt_length(len(ids), runtime)
    constraints, targets = _with_budget(ask, len(ids), runtime), ask.targets()
    begun = ask.begun_ids(runtime.tokenizer)
    prompts = []
    for number in range(ask.choices):
        guide = runtime.guides.create(constraints, targets)
        if guide is not None:
            guide.resume_turn(begun)
        reader = HarmonyAnswerParser(
            runtime.tokenizer, tools=ask.tools, stop=ask.constraints.stop, begun=begun
        )
        prompt = PreparedPrompt(
            ids,
            replace(ask.params, seed=choice_seed(ask.params.seed, number)),
            reader,
            guide,
            ask.history if ask.choices == 1 else (),
            shared=ask.choices > 1,
            freed=_unenforced_keywords(ask, guide),
        )
        prompts.append(prompt)
    return prompts


def prefill_next_prompt(turn: AnswerStream, runtime: Runtime) -> None:
    """Have read, in idle time, what the request after a turn will begin with.

    That is the conversation and the answer without its reasoning, or the calls with
    it. It takes a while to render: not for an event loop.
    """
    if turn.prompt.conversation and turn.finish_reason != CANCELLED:
        shown = [*turn.prompt.conversation, *turn.prompt.reader.messages]
        with suppress(GptOssError):  # the model may be closed by now: nobody asks
            runtime.prepare(render_messages(shown, runtime.tokenizer, complete=False))


def check_prompt_length(tokens: int, runtime: Runtime) -> None:
    """Raise ApiError for a prompt that leaves no room to answer."""
    if runtime.context is not None and tokens >= runtime.context:
        raise context_exceeded(tokens, runtime.context)


def _unenforced_keywords(ask: ConversationRequest, guide: Guide | None) -> list[str]:
    """What is left free of schemas, by the number of a function: a header says it."""
    if guide is None:
        return []
    free = guide.freed
    named = {
        FUNCTION_PREFIX + tool.wire_name: f"functions[{at}]"
        for at, tool in enumerate(ask.tools)
    }
    places: dict[str | None, str] = {**named, None: "response_format"}
    found = [
        f"{place}.{keyword}"
        for recipient, place in places.items()
        for _, keyword in free.get(recipient, ())
    ]
    return list(dict.fromkeys(found))


def choice_seed(seed: int | None, number: int) -> int | None:
    return None if seed is None else seed + number


def _with_budget(
    ask: ConversationRequest, tokens: int, runtime: Runtime
) -> Constraints:
    constraints = ask.constraints
    if not ask.auto_budget or constraints.max_reasoning_tokens is not None:
        return constraints
    space = resolve_max_tokens(tokens, 0, runtime.context, ask.params.max_tokens)
    return replace(constraints, max_reasoning_tokens=default_reasoning_budget(space))
