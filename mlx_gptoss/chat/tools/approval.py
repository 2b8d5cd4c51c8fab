"""Decide whether a call may run: by a policy, by tool, or by asking the user.

    Approval("ask", {"browser": "allow"}, ask=lambda call: input("Run? ") == "y")

Knows nothing of terminals or chats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.events import ToolCall

Policy = Literal["ask", "allow", "deny"]
POLICIES: tuple[str, ...] = get_args(Policy)
AskUser = Callable[[ToolCall], bool]
REFUSED = "Error: the user did not allow this call"


@dataclass(frozen=True)
class Approval:
    """Policies for calls: `policy` applies to every tool that `by_tool` does not name.

    A name in `by_tool` is that of a tool, of a built-in namespace (`browser`), or a
    pattern (`files_*`); the first match decides. `ask` is called for the policy "ask"
    and returns whether the call may run. Raises PromptError for an unknown policy, and
    for "ask" without a function.
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
        """Build one from a policy for all tools, or a function that decides."""
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
        """Return None if the call may run, else the error for the model."""
        policy = self.policy_of(call.name)
        if policy == "ask":
            assert self.ask is not None
            return None if self.ask(call) else REFUSED
        if policy == "deny":
            return f"Error: the user does not allow calls of `{call.name}`"
        return None


ApprovalLike = Approval | Policy | AskUser
