"""Whether a call may run, as a person says: once, always, no, never.

`always` and `never` become the tool's policy for the rest of the conversation, where
/tools shows and changes them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_gptoss.harmony.events import ToolCall
    from mlx_gptoss.tools import Approval

ONCE, ALWAYS, NO, NEVER = "once", "always", "no", "never"
KEYS = {"o": ONCE, "y": ONCE, "a": ALWAYS, "n": NO, "v": NEVER}
OFFER = (("", "o", "nce"), ("", "a", "lways"), ("", "n", "o"), ("ne", "v", "er"))
LASTING: dict[str, Any] = {ALWAYS: "allow", NEVER: "deny"}


def with_policy(approval: "Approval", tool: str, policy: Any) -> "Approval":
    """Let `policy` hold for a tool, whatever was said of it before."""
    others = {name: how for name, how in approval.by_tool.items() if name != tool}
    return replace(approval, by_tool={tool: policy} | others)


class Asking:
    """Asks about calls, and lets `set_policy(tool, policy)` know what shall last."""

    def __init__(
        self, ask: "Callable[[ToolCall], str]", set_policy: Callable[[str, Any], None]
    ) -> None:
        self.ask = ask
        self.set_policy = set_policy

    def __call__(self, call: "ToolCall") -> bool:
        choice = self.ask(call)
        if choice in LASTING:
            self.set_policy(call.name, LASTING[choice])
        return choice in (ONCE, ALWAYS)
