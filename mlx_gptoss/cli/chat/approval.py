"""Whether a call may run, as a person says: once, always, no, never.

`always` and `never` become the tool's policy until the program is left, where /tools
shows and changes them. `always` is asked again for whatever may run code or touch
files: that is every tool but those of the browser. What an MCP server says of its tools
(`readOnlyHint`) is its word alone and counts for nothing here.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlx_gptoss.cli.tool_options import BROWSER

if TYPE_CHECKING:
    from mlx_gptoss.chat.tools import Approval
    from mlx_gptoss.harmony.events import ToolCall

ONCE, ALWAYS, NO, NEVER = "once", "always", "no", "never"
LASTING: dict[str, Any] = {ALWAYS: "allow", NEVER: "deny"}
READS_ONLY = (BROWSER,)
OUTCOMES = {
    ONCE: "allowed once",
    ALWAYS: "allowed always: {}, until you leave (/tools changes it)",
    NO: "not allowed this once",
    NEVER: "never allowed: {}, until you leave (/tools changes it)",
}


def asks_twice(tool: str) -> bool:
    """Whether `always` is asked again."""
    return tool.partition(".")[0] not in READS_ONLY


def outcome(choice: str, tool: str) -> str:
    """Say what was decided, and for how long."""
    return OUTCOMES[choice].format(tool)


def with_policy(approval: "Approval", tool: str, policy: Any) -> "Approval":
    """Let `policy` hold for a tool, whatever was said of it before."""
    others = {name: how for name, how in approval.by_tool.items() if name != tool}
    return replace(approval, by_tool={tool: policy} | others)


class ApprovalPrompt:
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
