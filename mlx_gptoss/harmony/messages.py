"""What a Harmony conversation is made of; knows nothing of tokens or text layout.

    Conversation
    └── Message(role, content, channel, recipient, content_type, name)
        └── content: str | SystemContent | DeveloperContent

A tool call is an assistant message with a recipient; a tool result is a message
of role `tool` whose `name` is the tool. The functions at the end build the usual
messages by what they are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlx_gptoss.errors import PromptError

Effort = Literal["low", "medium", "high"]
Channel = Literal["analysis", "commentary", "final"]
JsonSchema = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
EFFORTS = ("low", "medium", "high")
CHANNELS = ("analysis", "commentary", "final")
FUNCTIONS = "functions"  # the namespace of the tools a caller offers
FUNCTION_PREFIX = "functions."
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
KNOWLEDGE_CUTOFF = "2024-06"
CONSTRAIN = "<|constrain|>"
CONSTRAINED_JSON = "<|constrain|>json"  # a content type: the mark is structure
HEADER_BREAKERS = re.compile(r"[\s<>|]")  # would end a name inside a header


def wire_name(name: str) -> str:
    """Write a name so that a header cannot be broken by it: `Web Search` by `_`."""
    return HEADER_BREAKERS.sub("_", name)


@dataclass(frozen=True)
class TextGrammar:
    """What a plain text must follow: a regular expression, or a Lark grammar."""

    kind: Literal["regex", "lark"]
    source: str


@dataclass(frozen=True)
class ToolDescription:
    """One tool: its name, what it does, and the JSON schema of its arguments.

    `parameters=None` means that it takes none. One that `takes_text` is called with
    plain text instead of JSON, which `grammar` may bind; see `text_tool`.
    """

    name: str
    description: str = ""
    parameters: JsonSchema | None = None
    takes_text: bool = False
    grammar: TextGrammar | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise PromptError("a tool has an empty name: give it one")

    @property
    def wire_name(self) -> str:
        """The name as the model reads and writes it."""
        return wire_name(self.name)


@dataclass(frozen=True)
class ToolNamespace:
    """Tools under one name, as `browser`; without tools, a tool fed plain text."""

    name: str
    description: str | None = None
    tools: tuple[ToolDescription, ...] = ()


@dataclass(frozen=True)
class ResponseFormat:
    """The JSON schema that the answer should follow, as the model is told of it."""

    name: str
    schema: JsonSchema
    description: str = ""


@dataclass(frozen=True)
class SystemContent:
    """The system message: who the model is, the date, the effort, built-in tools.

    `conversation_date` is given by the caller and never read from the clock, so
    that a prompt stays the same when midnight passes.
    """

    identity: str | None = IDENTITY
    knowledge_cutoff: str | None = KNOWLEDGE_CUTOFF
    conversation_date: str | None = None
    effort: Effort | None = "medium"
    namespaces: tuple[ToolNamespace, ...] = ()
    channels: tuple[str, ...] = CHANNELS

    def __post_init__(self) -> None:
        if self.effort is not None and self.effort not in EFFORTS:
            raise PromptError(
                f"reasoning effort `{self.effort}` is unknown: use low, medium or high"
            )


@dataclass(frozen=True)
class DeveloperContent:
    """The developer message: instructions, function tools, response formats."""

    instructions: str | None = None
    tools: tuple[ToolDescription, ...] = ()
    namespaces: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    @property
    def empty(self) -> bool:
        given = (self.instructions, self.tools, self.namespaces, self.response_formats)
        return not any(given)


Content = str | SystemContent | DeveloperContent


@dataclass(frozen=True)
class Message:
    """One message. `recipient` is whom it addresses, `name` who of the role spoke.

    `ended` notes that the turn was cut behind it, and why; the model is not shown it,
    and messages that differ in it alone are equal.
    """

    role: str
    content: Content
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None
    ended: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise PromptError(f"role `{self.role}` is unknown: use {', '.join(ROLES)}")
        if self.role == "tool" and not self.name:
            raise PromptError("a tool message needs `name`, the tool that answered")
        if isinstance(self.content, SystemContent) and self.role != "system":
            raise PromptError(f"SystemContent cannot stand in a {self.role} message")
        if isinstance(self.content, DeveloperContent) and self.role != "developer":
            raise PromptError(f"DeveloperContent cannot stand in a {self.role} message")

    @property
    def text(self) -> str:
        """The content as text; empty for system and developer content."""
        return self.content if isinstance(self.content, str) else ""

    @property
    def is_call(self) -> bool:
        return self.role == "assistant" and self.recipient is not None


@dataclass(frozen=True)
class Conversation:
    """Messages in order. Immutable: `adding` gives a longer one."""

    messages: tuple[Message, ...] = ()

    @classmethod
    def of(cls, *messages: Message) -> "Conversation":
        return cls(messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    def adding(self, messages: Iterable[Message]) -> "Conversation":
        return replace(self, messages=(*self.messages, *messages))

    @property
    def tools(self) -> tuple[ToolDescription, ...]:
        return function_tools(self.messages)


def function_tools(messages: Iterable[Message]) -> tuple[ToolDescription, ...]:
    """Return the function tools that the developer messages offer."""
    contents = (message.content for message in messages)
    developers = [one for one in contents if isinstance(one, DeveloperContent)]
    return tuple(tool for developer in developers for tool in developer.tools)


def system(
    effort: Effort | None = "medium",
    *,
    conversation_date: str | None = None,
    identity: str | None = IDENTITY,
    namespaces: Sequence[ToolNamespace] = (),
) -> Message:
    """Build the system message; `conversation_date` is written as given."""
    content = SystemContent(
        identity=identity,
        conversation_date=conversation_date,
        effort=effort,
        namespaces=tuple(namespaces),
    )
    return Message("system", content)


def developer(
    instructions: str | None = None,
    *,
    tools: Sequence[ToolDescription] = (),
    response_formats: Sequence[ResponseFormat] = (),
) -> Message:
    content = DeveloperContent(
        instructions, tuple(tools), response_formats=tuple(response_formats)
    )
    return Message("developer", content)


def user(text: str, *, name: str | None = None) -> Message:
    return Message("user", text, name=name)


def reasoning(text: str) -> Message:
    return Message("assistant", text, channel="analysis")


def preamble(text: str) -> Message:
    return Message("assistant", text, channel="commentary")


def answer(text: str) -> Message:
    return Message("assistant", text, channel="final")


def tool_call(name: str, arguments: str) -> Message:
    """Build a call of function tool `name` (no prefix) with JSON `arguments`."""
    return Message(
        "assistant",
        arguments,
        channel="commentary",
        recipient=FUNCTION_PREFIX + name,
        content_type=CONSTRAINED_JSON,
    )


def text_tool(
    name: str, description: str = "", grammar: TextGrammar | None = None
) -> ToolDescription:
    """Describe a tool that is called with plain text, such as a patch.

    The model reads it as a function of one string, as in OpenAI's own programs.
    """
    takes = {"type": "string"}
    return ToolDescription(name, description, takes, takes_text=True, grammar=grammar)


def text_call(name: str, text: str) -> Message:
    """Build a call of a tool that takes plain text."""
    return Message(
        "assistant", text, channel="commentary", recipient=FUNCTION_PREFIX + name
    )


def tool_result(name: str, text: str) -> Message:
    """Build the result of function tool `name` (no prefix), sent as it is."""
    return Message(
        "tool",
        text,
        channel="commentary",
        recipient="assistant",
        name=FUNCTION_PREFIX + name,
    )
