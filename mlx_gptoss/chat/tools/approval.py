"""Decide whether a call may run: by a policy, by tool, or by asking the user.

    Approval("ask", {"browser": "allow"}, ask=lambda call: input("Run? ") == "y")

Knows nothing of terminals or chats.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from mlx_gptoss.chat.tools.run import run_in_loop
from mlx_gptoss.chat.tools.tool import is_async
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.events import ToolCall

Policy = Literal["ask", "allow", "deny"]
POLICIES: tuple[str, ...] = get_args(Policy)
AskUser = Callable[[ToolCall], bool | Awaitable[bool]]
REFUSED = "Error: the user did not allow this call"
NEEDS_A_LOOP = (
    "`approve` is an async function, which only an AsyncChat can await: use a plain one"
)


@dataclass(frozen=True)
class Approval:
    """Policies for calls: `policy` applies to every tool that `by_tool` does not name.

    A name in `by_tool` is that of a tool, of a built-in namespace (`browser`), or a
    pattern (`files_*`); the first match decides. `ask` is called for the policy "ask"
    and returns whether the call may run; for an AsyncChat, it may be an async function.
    Raises PromptError for an unknown policy, and for "ask" without a function.
    """

    policy: Policy = "allow"
    by_tool: Mapping[str, Policy] = field(default_factory=dict)
    ask: AskUser | None = None

    def __post_init__(self) -> None:
        for policy in (self.policy, *self.by_tool.values()):
            if policy not in POLICIES:
                raise PromptError(
                    f"approval `{policy}` is unknown: use ask, allow, deny"
                )
            if policy == "ask" and self.ask is None:
                raise PromptError("approval `ask` needs a function to ask: give `ask=`")

    @classmethod
    def of(cls, source: "ApprovalLike") -> "Approval":
        """Build one from a policy for all tools, or a function that decides.

        `source` is "ask", "allow" or "deny", a function that takes a ToolCall, or an
        Approval. Raises PromptError for anything else.
        """
        if isinstance(source, Approval):
            return source
        return cls("ask", ask=source) if callable(source) else cls(source)

    def policy_of(self, name: str) -> Policy:
        """Return the policy for the tool `name`."""
        for pattern, policy in self.by_tool.items():
            if pattern == name.partition(".")[0] or fnmatchcase(name, pattern):
                return policy
        return self.policy

    def refusal(self, call: ToolCall) -> str | None:
        """Return None if the call may run, else the error for the model.

        Raises PromptError if `ask` is an async function.
        """
        policy = self.policy_of(call.name)
        if policy != "ask":
            return _refusal_of(policy, call)
        assert self.ask is not None
        allowed = self.ask(call)
        if inspect.isawaitable(allowed):  # which is true, whatever it would answer
            if inspect.iscoroutine(allowed):
                allowed.close()
            raise PromptError(NEEDS_A_LOOP)
        return None if allowed else REFUSED

    async def refusal_async(
        self, call: ToolCall, cancelled: Callable[[], bool] = lambda: False
    ) -> str | None:
        """Return what `refusal` returns, without blocking the running event loop.

        An async `ask` runs in this loop, a plain one in a thread of its own. Raises
        CallInterrupted once `cancelled()` is true.
        """
        policy, ask = self.policy_of(call.name), self.ask
        if policy != "ask" or ask is None:
            return _refusal_of(policy, call)
        allowed = await run_in_loop(
            lambda: ask(call), is_async=is_async(ask), cancelled=cancelled
        )
        return None if allowed else REFUSED


def _refusal_of(policy: Policy, call: ToolCall) -> str | None:
    denied = f"Error: the user does not allow calls of `{call.name}`"
    return denied if policy == "deny" else None


ApprovalLike = Approval | Policy | AskUser
