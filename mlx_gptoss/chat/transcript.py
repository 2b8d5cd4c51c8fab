"""The transcript of a chat: its messages and the calls that wait for results.

The two change together under a lock, so that other threads see them agree. Knows
nothing of models, prompts, or settings.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mlx_gptoss.chat.calls import Call, PendingCalls, insert_result
from mlx_gptoss.chat.history import forgotten_after_edit, reopen_last_turn
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import Message, user

UNANSWERED = "Error: the call was interrupted"


@dataclass
class Transcript:
    """The history of one chat.

    `forgotten` counts the oldest messages, which the model is no longer shown;
    `generations` those so far, so that each samples with a seed of its own.
    """

    messages: list[Message] = field(default_factory=list)
    calls: PendingCalls = field(default_factory=PendingCalls)
    forgotten: int = 0
    generations: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def waiting(self) -> dict[str, Call]:
        """The calls without a result, by id."""
        return self.calls.waiting

    def copy(self) -> "Transcript":
        """Return an independent copy that ends with a whole message."""
        with self.lock:
            return Transcript(
                list(self.messages),
                self.calls.copy(),
                self.forgotten,
                self.generations,
            )

    def with_question(self, text: str) -> list[Message]:
        """Return the messages with a question added; calls that wait are answered.

        Raises PromptError if the question is no text.
        """
        if not isinstance(text, str):
            raise PromptError(f"a question is text, not {type(text).__name__}")
        messages, waiting = list(self.messages), dict(self.waiting)
        for call in self.waiting.values():
            insert_result(messages, waiting, call, UNANSWERED)
        return [*messages, user(text)]

    def append(self, message: Message, *, kept: bool) -> None:
        """Add a message of the model; its call, if it is one, waits from now on.

        One that is not `kept` only ends the call that was started.
        """
        with self.lock:
            if kept:
                self.messages.append(message)
            self.calls.finish(message, kept=kept)

    def answer(self, calls: Iterable[Call], text: str) -> None:
        """Insert the same result for each of these waiting calls."""
        with self.lock:
            for call in list(calls):
                insert_result(self.messages, self.waiting, call, text)

    def truncate(self, length: int) -> None:
        """Keep the first `length` messages; no call waits any more."""
        with self.lock:
            del self.messages[length:]
            self.waiting.clear()
            self.update_forgotten()

    def replace(
        self, messages: list[Message]
    ) -> tuple[list[Message], dict[str, Call], int]:
        """Continue from `messages`; return what `restore` needs to undo that."""
        before = self.messages, self.waiting, self.forgotten
        with self.lock:
            self.messages, self.calls.waiting = messages, {}
            self.update_forgotten()
        return before

    def restore(self, before: tuple[list[Message], dict[str, Call], int]) -> None:
        """Undo a `replace`."""
        with self.lock:
            self.messages, self.calls.waiting, self.forgotten = before

    def reopen_last_turn(self) -> None:
        """Remove the mark that the last turn was cut short."""
        self.messages = reopen_last_turn(self.messages)

    def mark_cut(self, reason: str | None) -> bool:
        """Mark the last message with the reason the turn was cut short.

        Returns whether anything changed.
        """
        if reason is None or self.messages[-1].ended == reason:
            return False
        self.messages[-1] = replace(self.messages[-1], ended=reason)
        return True

    def update_forgotten(self) -> None:
        """Show all messages again if the turn behind the forgotten ones is gone."""
        self.forgotten = forgotten_after_edit(self.messages, self.forgotten)
