"""Ask a person whether a call may run: once, always, no, never.

`always` and `never` become the tool's policy until the program ends; /tools shows and
changes them. `always` needs a second confirmation for every tool that may run code or
touch files, which is all but those of the browser. An MCP server's own claims about its
tools (`readOnlyHint`) are ignored.
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
    """Say whether `always` needs a second confirmation."""
    return tool.partition(".")[0] not in READS_ONLY


def outcome(choice: str, tool: str) -> str:
    """Describe the decision and how long it lasts."""
    return OUTCOMES[choice].format(tool)


def with_policy(approval: "Approval", tool: str, policy: Any) -> "Approval":
    """Set a tool's policy, replacing an earlier one."""
    others = {name: how for name, how in approval.by_tool.items() if name != tool}
    return replace(approval, by_tool={tool: policy} | others)


class ApprovalPrompt:
    """Ask about calls; report lasting decisions to `set_policy(tool, policy)`."""

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
