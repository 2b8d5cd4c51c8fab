"""Messages of a Harmony conversation, as data. Knows nothing of tokens or text layout.

    Message(role, content, channel, recipient, content_type, name)
    └── content: str | SystemContent | DeveloperContent

A tool call is an assistant message with a recipient; a tool result is a message of role
`tool` whose `name` is the tool. The functions at the end build the usual messages.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.special_tokens import CONSTRAIN

Effort = Literal["low", "medium", "high"]
JsonSchema = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
EFFORTS = ("low", "medium", "high")
CHANNELS = ("analysis", "commentary", "final")
FUNCTIONS = "functions"  # the namespace of the tools that a caller offers
FUNCTION_PREFIX = f"{FUNCTIONS}."
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
KNOWLEDGE_CUTOFF = "2024-06"
CONSTRAINED_JSON = f"{CONSTRAIN}json"  # a content type; the token is structure
HEADER_BREAKERS = re.compile(r"[\s<>|]")  # would end a name inside a header


def wire_name(name: str) -> str:
    """Replace what would break a header: `Web Search` becomes `Web_Search`."""
    return HEADER_BREAKERS.sub("_", name)


@dataclass(frozen=True)
class TextGrammar:
    """The grammar of a plain text: a regular expression, or Lark."""

    kind: Literal["regex", "lark"]
    source: str


@dataclass(frozen=True)
class ToolDescription:
    """One tool: its name, its purpose, and the JSON schema of its arguments.

    `parameters=None` means no arguments. A tool that `takes_text` is called with plain
    text instead of JSON, which `grammar` may constrain; see `text_tool`.
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
    """Tools under one name, such as `browser`; without tools, one that takes text."""

    name: str
    description: str | None = None
    tools: tuple[ToolDescription, ...] = ()


@dataclass(frozen=True)
class ResponseFormat:
    """The JSON schema that the answer should follow, as the prompt shows it."""

    name: str
    schema: JsonSchema
    description: str = ""


@dataclass(frozen=True)
class SystemContent:
    """The system message: identity, dates, reasoning effort, built-in tools.

    `conversation_date` comes from the caller and never from the clock, so that a
    prompt does not change at midnight.
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
    """One message. `recipient` is its addressee, `name` the author within the role.

    `role` is system, developer, user, assistant or tool; `content` its text, or the
    settings of a system or developer message. `channel` is analysis, commentary or
    final for the assistant's messages, else None, and `content_type` what follows
    `<|constrain|>`, such as `json`.
    `ended` notes why the turn was cut short behind the message; prompts do not show it
    and comparison ignores it.
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
            raise PromptError("a tool message needs a `name`: the tool that answered")
        if isinstance(self.content, SystemContent) and self.role != "system":
            raise PromptError(f"a {self.role} message cannot have SystemContent")
        if isinstance(self.content, DeveloperContent) and self.role != "developer":
            raise PromptError(f"a {self.role} message cannot have DeveloperContent")

    @property
    def text(self) -> str:
        """The content as text; empty for system and developer content."""
        return self.content if isinstance(self.content, str) else ""

    @property
    def is_call(self) -> bool:
        """Whether it calls a tool: an assistant's message with a recipient."""
        return self.role == "assistant" and self.recipient is not None


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
    """Build a call of function tool `name` (without prefix) with JSON `arguments`."""
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

    Prompts show it as a function of one string, as OpenAI's own programs do.
    """
    schema = {"type": "string"}
    return ToolDescription(name, description, schema, takes_text=True, grammar=grammar)


def text_call(name: str, text: str) -> Message:
    """Build a call of a tool that takes plain text."""
    return Message(
        "assistant", text, channel="commentary", recipient=FUNCTION_PREFIX + name
    )


def tool_result(name: str, text: str) -> Message:
    """Build the result of function tool `name` (without prefix)."""
    return Message(
        "tool",
        text,
        channel="commentary",
        recipient="assistant",
        name=FUNCTION_PREFIX + name,
    )
