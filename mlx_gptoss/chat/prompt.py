"""Render the prompt of a chat, leaving out its oldest turns where it is too long.

Knows nothing of turns or tools.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mlx_gptoss.chat.system_messages import system_messages
from mlx_gptoss.chat.truncate import ERROR, fit_prompt
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.render.encode import encode_within
from mlx_gptoss.harmony.render.prompt import history_pieces

if TYPE_CHECKING:
    from mlx_gptoss.chat.base_chat import BaseChat


def opening_messages(chat: "BaseChat") -> list[Message]:
    """Return the system and developer messages, by the settings of the moment."""
    return system_messages(
        identity=chat.identity,
        date=chat.date,
        effort=chat.effort,
        namespaces=chat.namespaces,
        instructions=chat.system,
        functions=chat.functions,
        response_format=chat.constraints.response_format,
    )


def render_prompt(chat: "BaseChat") -> list[int]:
    """Return the prompt for the next message; updates `transcript.forgotten`.

    With an `overflow` other than ERROR, it leaves space for the answer.
    """
    transcript, runtime = chat.transcript, chat.runtime
    transcript.update_forgotten()
    opening = opening_messages(chat)

    def render(forgotten: int) -> list[int]:
        shown = [*opening, *transcript.messages[forgotten:]]
        return _encode(shown, runtime, complete=True)

    longest = runtime.longest_sequence
    if chat.overflow == ERROR or longest is None:
        return render(transcript.forgotten)
    ids, transcript.forgotten = fit_prompt(
        transcript.messages,
        transcript.forgotten,
        render,
        context=longest,
        max_tokens=chat.params.max_tokens,
    )
    return ids


def prefill_history(chat: "BaseChat") -> None:
    """Have the history prefilled in idle time, as the next prompt will begin.

    Does nothing for a history that is too long: the next prompt begins elsewhere.
    """
    with suppress(LongPromptError):
        ids = _encode(chat.conversation, chat.runtime, complete=False)
        chat.runtime.prepare(ids, adapter=chat.adapter)


def _encode(
    messages: Sequence[Message], runtime: Runtime, *, complete: bool
) -> list[int]:
    pieces = history_pieces(messages, complete=complete)
    return encode_within(pieces, runtime.tokenizer, runtime.context)
