"""Render the prompt of a chat, leaving out its oldest turns where it is too long.

Transcript in, token ids out. Knows nothing of turns or tools.
"""

from collections.abc import Sequence
from contextlib import suppress

from mlx_gptoss.chat.transcript import Transcript
from mlx_gptoss.chat.truncate import fit_prompt
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.render.encode import encode_within
from mlx_gptoss.harmony.render.prompt import history_pieces


def render_prompt(
    transcript: Transcript,
    system_messages: Sequence[Message],
    runtime: Runtime,
    *,
    drop_oldest: bool,
    max_tokens: int | None,
) -> list[int]:
    """Return the prompt for the next message; updates `transcript.forgotten`.

    With `drop_oldest`, it leaves space for the answer, of at most `max_tokens`.
    """
    transcript.update_forgotten()

    def render(forgotten: int) -> list[int]:
        shown = [*system_messages, *transcript.messages[forgotten:]]
        return _encode(shown, runtime, complete=True)

    if not drop_oldest or runtime.context is None:
        return render(transcript.forgotten)
    ids, transcript.forgotten = fit_prompt(
        transcript.messages,
        transcript.forgotten,
        render,
        context=runtime.context,
        max_tokens=max_tokens,
    )
    return ids


def prefill_history(
    transcript: Transcript, system_messages: Sequence[Message], runtime: Runtime
) -> None:
    """Have the history prefilled in idle time, as the next prompt will begin.

    Does nothing for a history that is too long: the next prompt begins elsewhere.
    """
    shown = [*system_messages, *transcript.messages[transcript.forgotten :]]
    with suppress(LongPromptError):
        runtime.prepare(_encode(shown, runtime, complete=False))


def _encode(
    messages: Sequence[Message], runtime: Runtime, *, complete: bool
) -> list[int]:
    pieces = history_pieces(messages, complete=complete)
    return encode_within(pieces, runtime.tokenizer, runtime.context)
