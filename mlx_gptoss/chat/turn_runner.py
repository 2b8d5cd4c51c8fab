"""Run the turns of a chat one at a time: start, continue, cancel, or roll back.

Holds the answer lock while a turn changes the transcript. Knows nothing of how a chat
is named, saved, or configured.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace

from mlx_gptoss.chat.answer_lock import AnswerLock
from mlx_gptoss.chat.transcript import Transcript
from mlx_gptoss.chat.turn import Turn, TurnContext
from mlx_gptoss.engine.stream import Stream
from mlx_gptoss.errors import GptOssError, PromptError
from mlx_gptoss.harmony.events import Done, Event
from mlx_gptoss.harmony.messages import Message


class TurnRunner:
    """The turns of one chat.

    `context.cancelled` is set here. `prefill` is called before the Done of each turn.
    """

    def __init__(
        self,
        context: TurnContext,
        prefill: Callable[[], None],
        reasoning_tokens: int = 0,
    ) -> None:
        self.lock = AnswerLock()
        self._cancelled = threading.Event()
        self._context = replace(context, cancelled=self._cancelled.is_set)
        self._prefill = prefill
        self._turn = Turn(self._context, reasoning_tokens)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of reasoning in the current turn so far."""
        return self._turn.reasoning_tokens

    def use(self, transcript: Transcript) -> None:
        """Continue with another transcript, or with a new turn in the same one."""
        self._context = replace(self._context, transcript=transcript)
        self._turn = Turn(self._context)

    def ask(self, history: Callable[[], list[Message]]) -> Generator[Event]:
        """Answer the history that `history` returns, which ends with a question.

        On an error before the first token, the old history is restored.
        """
        return self.lock.hold_during(self._ask(history))

    def submit_result(self, call_id: str, text: str) -> Iterator[Event]:
        """Insert the result of a waiting call; continue once none waits."""
        with self.lock.hold():
            transcript = self._context.transcript
            waiting = transcript.waiting
            if call_id not in waiting:
                known = ", ".join(f"`{one}`" for one in waiting) or "none"
                raise PromptError(
                    f"no call `{call_id}` waits; the waiting calls: {known}"
                )
            transcript.answer([waiting[call_id]], text)
            self._context.changed()
            events = self._continue(self._turn)
        return iter(()) if waiting else self.lock.hold_during(events)

    def cancel(self) -> None:
        """End the answer in progress after its current token."""
        self._cancelled.set()

    def _ask(self, history: Callable[[], list[Message]]) -> Generator[Event]:
        messages = history()
        turn, transcript = self._turn, self._context.transcript
        self._cancelled.clear()
        before = transcript.replace(messages)
        self._turn = Turn(self._context)
        try:
            stream = self._turn.start(self._context.settings().params.max_tokens)
        except GptOssError:
            transcript.restore(before)
            self._turn = turn
            raise
        with closing(stream):
            self._context.changed()
            yield from self._run(self._turn, stream)

    def _continue(self, turn: Turn) -> Generator[Event]:
        if turn is not self._turn:
            raise PromptError(
                "this result is of an earlier turn: the chat went on without it"
            )
        self._cancelled.clear()
        self._context.transcript.reopen_last_turn()
        max_tokens = self._context.settings().params.max_tokens
        yield from self._run(turn, turn.resume(max_tokens))

    def _run(self, turn: Turn, stream: Stream) -> Generator[Event]:
        with closing(turn.run(stream)) as events:
            for event in events:
                if isinstance(event, Done):
                    self._prefill()
                yield event
