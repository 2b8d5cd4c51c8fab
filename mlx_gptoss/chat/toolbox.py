"""The tools of a chat: their descriptions for the prompt, and running a call.

Decides by the approval whether a call runs; knows nothing of models or prompts.
"""

from collections.abc import Callable, Iterable

from mlx_gptoss.chat.calls import Call
from mlx_gptoss.chat.tools import (
    Approval,
    ApprovalLike,
    Tool,
    ToolLike,
    ToolSet,
    tools_by_name,
)
from mlx_gptoss.chat.tools.run import CallInterrupted
from mlx_gptoss.chat.tools.tool import INTERRUPTED
from mlx_gptoss.harmony.constrain.tool_constraints import (
    ToolConstraint,
    built_in_constraints,
    function_constraints,
)
from mlx_gptoss.harmony.messages import ToolDescription, ToolNamespace

TOOL_SECONDS = 120.0


class Toolbox:
    """The tools a chat may use, and the approval that decides which calls run.

    A tool runs in a thread of its own for at most `seconds`; with None, in the
    caller's thread.
    """

    def __init__(
        self,
        tools: Iterable[ToolLike] = (),
        approve: ApprovalLike = "allow",
        seconds: float | None = TOOL_SECONDS,
    ) -> None:
        given = list(tools)
        self.tools = tools_by_name(given)
        self.approval = Approval.of(approve)
        self.seconds = seconds
        self._sets = [one for one in given if isinstance(one, ToolSet)]

    def reset(self) -> None:
        """Reset the state of every ToolSet."""
        for tool_set in self._sets:
            tool_set.reset()

    @property
    def functions(self) -> list[ToolDescription]:
        """The tools of the developer message; the others are built in."""
        tools = self.tools.values()
        return [tool.description for tool in tools if tool.namespace is None]

    @property
    def targets(self) -> list[ToolConstraint]:
        """The recipients that calls may have, with the schemas of their arguments."""
        return [
            *function_constraints(self.functions),
            *built_in_constraints(self.namespaces),
        ]

    @property
    def namespaces(self) -> tuple[ToolNamespace, ...]:
        """The built-in tools, as the system message declares them."""
        found = [tool.namespace for tool in self.tools.values() if tool.namespace]
        return tuple(one for n, one in enumerate(found) if one not in found[:n])

    @property
    def built_in(self) -> list[str]:
        """The names of the built-in tools."""
        return [name for name, tool in self.tools.items() if tool.namespace]

    def run(self, call: Call, cancelled: Callable[[], bool]) -> str | None:
        """Run an approved call and return its result, or the reason it was not run.

        None if the tool has no function here: the caller has to answer the call.
        """
        if call.problem:
            return call.problem
        tool = self._runnable(call)
        if tool is None:
            return None
        return self.approval.refusal(call.event) or tool.run(
            call.arguments, seconds=self.seconds, cancelled=cancelled
        )

    async def run_async(self, call: Call, cancelled: Callable[[], bool]) -> str | None:
        """Do what `run` does, without blocking the running event loop."""
        if call.problem:
            return call.problem
        tool = self._runnable(call)
        if tool is None:
            return None
        try:
            refusal = await self.approval.refusal_async(call.event, cancelled)
        except CallInterrupted:
            return INTERRUPTED
        return refusal or await tool.run_async(
            call.arguments, seconds=self.seconds, cancelled=cancelled
        )

    def _runnable(self, call: Call) -> Tool | None:
        """Return the tool of a call if it has a function here."""
        tool = self.tools.get(call.name)
        return None if tool is None or tool.function is None else tool
