"""Calls that wait for a decision: once, always, no, never.

Only the session that asked the question may decide, and `always` and `never` hold for
that session, in this conversation, until the server ends. The answer's thread waits;
decisions come from the event loop.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.harmony.events import ToolCall

Decision = Literal["once", "always", "no", "never"]
ALLOWING: tuple[Decision, ...] = ("once", "always")
LASTING: dict[Decision, bool] = {"always": True, "never": False}


class ApprovalInterrupted(Exception):
    """The answer was stopped while a call waited: the call stays unanswered."""


@dataclass
class WaitingCall:
    """A call that waits, and the session that may decide about it."""

    call: ToolCall
    session: str
    decided: threading.Event = field(default_factory=threading.Event)
    choice: Decision | None = None  # None: interrupted


class Approvals:
    """The decisions in one conversation.

    `on_wait(call_id, waits)` is called in the thread of the answer when a call begins
    and ends to wait.
    """

    def __init__(self, on_wait: Callable[[str, bool], object]) -> None:
        self.session = ""  # that asked the question being answered
        self._on_wait = on_wait
        self._lasting: dict[tuple[str, str], bool] = {}  # by session and tool
        self._waiting: WaitingCall | None = None
        self._stopped = False
        self._lock = threading.Lock()

    @property
    def waiting(self) -> WaitingCall | None:
        """The call that waits, if any."""
        return self._waiting

    def begin(self, session: str) -> None:
        """An answer begins, to a question of `session`."""
        with self._lock:
            self.session, self._stopped = session, False

    def ask(self, call: ToolCall) -> bool:
        """Return whether a call may run, once it is decided.

        Raises ApprovalInterrupted if the answer is stopped first.
        """
        with self._lock:
            known = self._lasting.get((self.session, call.name))
            if known is not None:
                return known
            if self._stopped:
                raise ApprovalInterrupted
            waiting = self._waiting = WaitingCall(call, self.session)
        self._on_wait(call.id, True)
        waiting.decided.wait()
        self._on_wait(call.id, False)
        if waiting.choice is None:
            raise ApprovalInterrupted
        return waiting.choice in ALLOWING

    def decide(self, session: str, call_id: str, choice: Decision) -> None:
        """Decide about the call that waits. Raises ApiError (403, 409)."""
        with self._lock:
            waiting = self._waiting
            if waiting is None or waiting.call.id != call_id:
                raise ApiError(409, "this call no longer waits", "not_waiting")
            if waiting.session != session:
                raise ApiError(
                    403,
                    "only the browser that asked the question may decide about its "
                    "calls",
                    "other_session",
                )
            if choice in LASTING:
                self._lasting[session, waiting.call.name] = LASTING[choice]
            waiting.choice = choice
            self._end(waiting)

    def interrupt(self) -> None:
        """End the waiting: the answer is stopped."""
        with self._lock:
            self._stopped = True
            if self._waiting is not None:
                self._end(self._waiting)

    def _end(self, waiting: WaitingCall) -> None:
        self._waiting = None
        waiting.decided.set()
