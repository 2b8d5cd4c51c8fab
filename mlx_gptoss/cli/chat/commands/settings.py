"""Commands about the model and its settings."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlx_gptoss.cli.chat.answer import REASONING
from mlx_gptoss.cli.chat.commands.command import ChatCommand, Word
from mlx_gptoss.cli.chat.layout import clean
from mlx_gptoss.cli.chat.status import context_used
from mlx_gptoss.cli.sampling_options import EFFORTS
from mlx_gptoss.cli.statistics import expert_lines, one_line
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.cli.tool_options import BROWSER, POLICIES, PYTHON, ToolOptions
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.loop import ChatLoop
    from mlx_gptoss.cli.chat.session import ChatSession
    from mlx_gptoss.harmony.messages import ToolDescription

OFF = "off"


def effort(loop: "ChatLoop", argument: str) -> None:
    chat = loop.conversation.chat
    if argument in EFFORTS:
        chat.effort = argument
    elif argument:
        note(f"/effort takes {', '.join(EFFORTS)}")
    note(f"Effort: {chat.effort}")


def system(loop: "ChatLoop", argument: str) -> None:
    loop.conversation.chat.system = argument or None
    note(f"Instructions: {argument or 'none'}")


def reasoning(loop: "ChatLoop", argument: str) -> None:
    if not argument:
        loop.interface.recall()
    elif argument in REASONING:
        loop.interface.reasoning = argument
        note(f"Reasoning: {argument}")
    else:
        note(f"/reasoning takes {', '.join(REASONING)}")


def tools(loop: "ChatLoop", argument: str) -> None:
    """List tools, set a policy, add built-in tools, or remove all of them."""
    conversation = loop.conversation
    name, _, policy = argument.rpartition("=")
    if argument == OFF:
        conversation.take_tools()
    elif name and policy in POLICIES:
        conversation.set_policy(name, policy)
    elif argument:
        conversation.give_tools(ToolOptions(tools=(argument,)))
    known = conversation.chat.tools
    policy_of = conversation.given.approval.policy_of
    width = max(map(len, known), default=0)
    lines = [
        f"{name:<{width}}  {policy_of(name):<5}  {_first_line(tool.description)}"
        for name, tool in known.items()
    ]
    note("\n".join(lines) or "The model has no tools: /tools python,browser=FOLDER")


def model(loop: "ChatLoop", argument: str) -> None:
    """Show the model, or switch to another."""
    conversation = loop.conversation
    if argument:
        note(f"Loading {argument}; the conversation continues")
        conversation.switch_model(argument)
    note(f"Model: {conversation.name}, {context_used(conversation)}")
    plan = conversation.runtime.plan
    if plan is not None:
        note(
            f"{plan.mode} experts, {format_bytes(plan.total_bytes)} of "
            f"{format_bytes(plan.budget.bytes)} ({plan.budget.source})"
        )


def adapter(loop: "ChatLoop", argument: str) -> None:
    """Show the adapter, switch to another, or to none."""
    conversation = loop.conversation
    if argument:
        conversation.use_adapter(None if argument == OFF else argument)
    loaded = ", ".join(conversation.runtime.adapters) or "none, see --adapter"
    note(f"Adapter: {conversation.chat.adapter or 'none'} (loaded: {loaded})")


def stats(loop: "ChatLoop", argument: str) -> None:
    conversation = loop.conversation
    stats = conversation.stats
    note(one_line(stats) if stats else "There is no answer yet")
    note(f"conversation: {context_used(conversation)}")
    experts = getattr(conversation.runtime, "stats", None)
    if stats and experts:
        note("\n".join(expert_lines(experts)))


def _efforts(conversation: "ChatSession") -> Iterator[Word]:
    return ((effort, "") for effort in EFFORTS)


def _reasonings(conversation: "ChatSession") -> Iterator[Word]:
    meanings = ("one line when it ends", "all of it", "not at all")
    return zip(REASONING, meanings, strict=True)


def _tools(conversation: "ChatSession") -> Iterator[Word]:
    known = conversation.chat.tools
    for name in known:
        for policy in POLICIES:
            yield f"{name}={policy}", "its calls from now on"
    if PYTHON not in known:
        yield PYTHON, "runs code in a sandbox"
    if conversation.browser is None:
        yield f"{BROWSER}=", "reads files of a folder"
    yield OFF, "no tools"


def _models(conversation: "ChatSession") -> Iterator[Word]:
    for one in conversation.services.list_models():
        yield one.name, f"{format_bytes(one.bytes)}, {one.kind}"


def _adapters(conversation: "ChatSession") -> Iterator[Word]:
    for name in conversation.runtime.adapters:
        yield name, "answers from now on"
    yield OFF, "the model without an adapter"


def _first_line(tool: "ToolDescription") -> str:
    return clean(tool.description).strip().partition("\n")[0]


COMMANDS = (
    ChatCommand(
        "effort", "low|medium|high", "how long the model reasons", effort, _efforts
    ),
    ChatCommand(
        "system", "[TEXT]", "instructions for the model; without TEXT, none", system
    ),
    ChatCommand(
        "reasoning",
        "[fold|show|hide]",
        "show the last reasoning, or choose its display",
        reasoning,
        _reasonings,
    ),
    ChatCommand(
        "tools",
        "[LIST|NAME=POLICY|off]",
        "list or add tools; ask, allow or deny calls",
        tools,
        _tools,
    ),
    ChatCommand(
        "model", "[MODEL]", "show the model, or switch to another", model, _models
    ),
    ChatCommand(
        "adapter",
        "[NAME|off]",
        "show the adapter, or answer with another",
        adapter,
        _adapters,
    ),
    ChatCommand("stats", "", "speed of the last answer", stats),
)
