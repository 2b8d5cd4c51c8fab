"""Training examples as data, before they become tokens.

TrainingExample(messages, learned)      a conversation, and which messages to learn
PlainExample(prompt, completion)        text, and the text to learn behind it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_gptoss.harmony import messages as m

TrainedKind = Literal["analysis", "final", "calls"]
TRAINED_KINDS: tuple[TrainedKind, ...] = ("analysis", "final", "calls")


@dataclass(frozen=True)
class TrainingExample:
    """A conversation; `learned` are the places of the messages to learn."""

    messages: tuple[m.Message, ...]
    learned: frozenset[int]

    @property
    def calls(self) -> Sequence[m.Message]:
        """The calls of function tools."""
        prefix = m.FUNCTION_PREFIX
        return [
            one
            for one in self.messages
            if one.is_call and str(one.recipient).startswith(prefix)
        ]

    def not_offered(self) -> str | None:
        """Return the first tool that is called but not offered, if any."""
        offered = {tool.wire_name for tool in m.function_tools(self.messages)}
        names = (
            m.wire_name(str(call.recipient)).removeprefix(m.FUNCTION_PREFIX)
            for call in self.calls
        )
        return next((name for name in names if name not in offered), None)


@dataclass(frozen=True)
class PlainExample:
    """Text without messages. Without a prompt all of it is learned.

    `ends` says that the end of the text is the end of the document, not of a part.
    """

    prompt: str
    completion: str
    ends: bool = True


def trained_kind(message: m.Message) -> TrainedKind:
    """Return the kind of an assistant message; preambles count as calls."""
    if message.is_call or message.channel == "commentary":
        return "calls"
    return "analysis" if message.channel == "analysis" else "final"
