"""Continue a raw prompt: text in, text out, without Harmony.

Works with any tokenizer. Knows nothing of conversations, and of no wire type.
"""

import re
from collections.abc import Container, Generator, Sequence

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.answer import AnswerParser
from mlx_gptoss.engine.outputs import STOP
from mlx_gptoss.engine.prompt_progress import OnPromptProgress, PromptMeter
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony.events import Answer, Done, ParserEvent
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.parse.output import TokenKind
from mlx_gptoss.harmony.render.encode import SHORT_PROMPT, encode_within
from mlx_gptoss.harmony.render.pieces import Piece


class TextParser:
    """Decodes the tokens of a raw continuation: all of its text is the answer.

    Control tokens have no text, or with `show_control` their names; `stop_tokens` only
    end the text.
    """

    open_channel = "final"

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_tokens: Container[int] = (),
        *,
        show_control: bool = False,
    ) -> None:
        self.messages: list[Message] = []  # stays empty
        self.token_kinds: list[TokenKind] = []
        self._detokenizer = tokenizer.detokenizer()
        self._stop_tokens = stop_tokens
        self._hidden = () if show_control else frozenset(tokenizer.specials.values())

    def feed(self, token_id: int) -> list[ParserEvent]:
        """Take one id; return the text it completes."""
        ends = token_id in self._stop_tokens
        self.token_kinds.append("control" if ends else "text")
        if ends:
            return []
        hidden = token_id in self._hidden
        text = self._detokenizer.flush() if hidden else self._detokenizer.feed(token_id)
        return [Answer(text)] if text else []

    def finish(self) -> list[ParserEvent]:
        """Return U+FFFD for an incomplete character at the end."""
        text = self._detokenizer.flush()
        return [Answer(text)] if text else []


def continue_text(
    runtime: Runtime,
    text: str,
    params: SamplingParams | None = None,
    *,
    stop: Sequence[str] = (),
    on_progress: OnPromptProgress | None = None,
) -> Generator[Answer | Done]:
    """Continue a text: yield pieces of it as Answer, and Done at the end.

    `on_progress` is called while `text` is read, as by a Chat.

    Raises PromptError for a text that is empty or fills the context.
    """
    ids = encode_text(text, runtime)
    parser = AnswerParser(TextParser(runtime.tokenizer, runtime.stop_tokens), stop)
    meter = PromptMeter(len(ids), on_progress)
    with runtime.generate(ids, params, progress=meter) as steps:
        meter.source = steps
        for events in parser.read(steps):
            yield from (event for event in events if isinstance(event, Answer))
    stats = parser.with_stop_string(steps.stats)
    yield Done(stats.finish_reason or STOP, stats)


def encode_text(
    text: str, runtime: Runtime, *, special: bool = False, contexts: int = 1
) -> list[int]:
    """Encode a raw prompt; with `special`, names of control tokens become the tokens.

    Raises LongPromptError if it fills the context, or several `contexts`.
    """
    tokenizer = runtime.tokenizer
    context = None if runtime.context is None else runtime.context * contexts
    if not special:
        return encode_within([Piece(text)], tokenizer, context)
    names = tokenizer.specials
    if context is not None and len(text) > SHORT_PROMPT:
        count = max(map(text.count, names), default=0)
        if count >= context:  # checked before the text is split at them
            raise LongPromptError(count, context)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
    pieces = [Piece(part, special=part in names) for part in parts]
    return encode_within(pieces, tokenizer, context)
