"""A conversation to answer, independent of the API, and the prompts it becomes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from mlx_gptoss.api.errors import context_exceeded
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt
from mlx_gptoss.api.ids import id_source
from mlx_gptoss.api.prompt_logprobs import check_entries
from mlx_gptoss.api.reply_parser import ReplyParser
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.outputs import CANCELLED
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.token_limits import default_reasoning_budget, resolve_max_tokens
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.tool_constraints import (
    ToolConstraint,
    function_constraints,
)
from mlx_gptoss.harmony.messages import FUNCTION_PREFIX, Message, ToolDescription
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.render.encode import Vocabulary, encode_pieces, encode_within
from mlx_gptoss.harmony.render.prompt import (
    continuation_pieces,
    history_pieces,
    render_messages,
)

CALL_ID_BYTES = 12
MAX_CONTEXTS_COUNTED = 4  # a prompt that is only rendered is counted up to this


@dataclass(frozen=True, kw_only=True)
class ConversationRequest:
    """A conversation and how to answer it.

    `conversation` is complete and begins with the system message. With
    `continues_answer` its last message is an answer to be continued. `tools` are the
    functions on offer; `strict_tools` names those whose schema must be enforced in full
    or refused, `callable_tools` those that may be called now (None for all).
    `auto_reasoning_limit` reserves a share of the room for the answer. Each of several
    `choices` has its own seed: the given one and its successors. `reports_progress`
    says that the reply tells how the prompt is read. `ignored_tools` and `hidden_parts`
    are types of tools and content parts that the model does not see.
    """

    conversation: Sequence[Message]
    continues_answer: bool = False
    tools: Sequence[ToolDescription] = ()
    strict_tools: frozenset[str] = frozenset()
    callable_tools: frozenset[str] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    constraints: Constraints = field(default_factory=Constraints)
    auto_reasoning_limit: bool = False
    choices: int = 1
    reports_progress: bool = False
    ignored_tools: Sequence[str] = ()
    hidden_parts: Sequence[str] = ()

    @property
    def characters(self) -> int:
        """Characters of the conversation, without the developer message."""
        return sum(len(message.text) for message in self.conversation)

    @property
    def needs_compiling(self) -> bool:
        """Whether the client sent schemas or grammars that have to be compiled."""
        return bool(self.tools) or self.constraints.response_format is not None

    def render(self, runtime: Runtime) -> list[int]:
        """Render the exact prompt. Raises LongPromptError if it fills the context."""
        pieces = history_pieces(self.conversation, continue_last=self.continues_answer)
        return encode_within(pieces, runtime.tokenizer, runtime.context)

    def render_any_length(self, runtime: Runtime) -> list[int]:
        """Render the exact prompt, even one that fills the context.

        Raises LongPromptError for a prompt that is longer than several contexts.
        """
        pieces = history_pieces(self.conversation, continue_last=self.continues_answer)
        context = runtime.context
        limit = None if context is None else context * MAX_CONTEXTS_COUNTED
        return encode_within(pieces, runtime.tokenizer, context, count_to=limit)

    @property
    def history(self) -> Sequence[Message]:
        """The messages before the answer."""
        return self.conversation[:-1] if self.continues_answer else self.conversation

    def answer_prefix_ids(self, vocabulary: Vocabulary) -> list[int]:
        """The token ids of the answer that are part of the prompt."""
        if not self.continues_answer:
            return []
        return encode_pieces(continuation_pieces(self.conversation[-1]), vocabulary)

    def tool_constraints(self) -> list[ToolConstraint]:
        """The constraints of each tool that may be called."""
        tools = [
            tool
            for tool in self.tools
            if self.callable_tools is None or tool.name in self.callable_tools
        ]
        return function_constraints(tools, strict=self.strict_tools)


def prepare_prompts(
    request: ConversationRequest,
    runtime: Runtime,
    *,
    max_entries: int = RequestLimits.prompt_logprobs,
) -> list[PreparedPrompt]:
    """Render a conversation and compile the constraints of each choice.

    Log-probabilities of the prompt, at most `max_entries`, come with the first.

    Raises ApiError for a prompt that fills the context, and PromptError.
    """
    ids = request.render(runtime)
    check_prompt_length(len(ids), runtime)
    constraints = _limit_reasoning(request, len(ids), runtime)
    tools = request.tool_constraints()
    prefix = request.answer_prefix_ids(runtime.tokenizer)
    scored = request.params.prompt_logprobs
    if scored is not None:
        check_entries(len(ids), scored, max_entries)
    prompts = []
    for number in range(request.choices):
        guide = runtime.guides.create(constraints, tools)
        if guide is not None:
            guide.resume_turn(prefix)
        new_call_id = partial(id_source(f"choice {number}"), "call_", CALL_ID_BYTES)
        parser = Parser(runtime.tokenizer, tools=request.tools, next_id=new_call_id)
        for token in prefix:
            parser.feed(token)
        prompt = PreparedPrompt(
            ids,
            replace(
                request.params,
                seed=choice_seed(request.params.seed, number),
                prompt_logprobs=None if number else scored,
            ),
            ReplyParser(parser, request.constraints.stop),
            guide,
            request.history if request.choices == 1 else (),
            shared=request.choices > 1,
            reports_progress=request.reports_progress,
            unenforced=_unenforced_keywords(request, guide),
        )
        prompts.append(prompt)
    return prompts


def prefill_next_prompt(answer: AnswerStream, runtime: Runtime) -> None:
    """Prefill, in idle time, the beginning of the request that will follow an answer.

    That is the conversation and the answer without its reasoning, or the calls with
    it. Rendering takes a while: do not call this in an event loop.
    """
    if answer.prompt.conversation and answer.finish_reason != CANCELLED:
        messages = [*answer.prompt.conversation, *answer.parser.messages]
        with suppress(GptOssError):  # the model may be closed by now
            runtime.prepare(
                render_messages(messages, runtime.tokenizer, complete=False),
                adapter=answer.prompt.adapter,
            )


def check_prompt_length(tokens: int, runtime: Runtime) -> None:
    """Raise ApiError for a prompt that leaves no room to answer."""
    if runtime.context is not None and tokens >= runtime.context:
        raise context_exceeded(tokens, runtime.context)


def choice_seed(seed: int | None, number: int) -> int | None:
    """The seed of the choice with this number."""
    return None if seed is None else seed + number


def _unenforced_keywords(
    request: ConversationRequest, guide: Guide | None
) -> list[str]:
    """Name the schema keywords that are not enforced, by the index of the function."""
    if guide is None:
        return []
    names: dict[str | None, str] = {
        FUNCTION_PREFIX + tool.wire_name: f"functions[{index}]"
        for index, tool in enumerate(request.tools)
    }
    names[None] = "response_format"
    found = [
        f"{name}.{keyword}"
        for recipient, name in names.items()
        for _, keyword in guide.unenforced.get(recipient, ())
    ]
    return list(dict.fromkeys(found))


def _limit_reasoning(
    request: ConversationRequest, prompt_tokens: int, runtime: Runtime
) -> Constraints:
    constraints = request.constraints
    if not request.auto_reasoning_limit or constraints.max_reasoning_tokens is not None:
        return constraints
    max_tokens = request.params.max_tokens
    free = resolve_max_tokens(prompt_tokens, 0, runtime.context, max_tokens)
    return replace(constraints, max_reasoning_tokens=default_reasoning_budget(free))
