"""The tools on offer, and which of them a recipient written by a model names."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlx_gptoss.harmony.messages import (
    FUNCTION_PREFIX,
    JsonSchema,
    ToolDescription,
    wire_name,
)

PLAIN_TEXT_TOOLS = frozenset({"python"})  # take code, not JSON
PUNCTUATION = ".,:;\"'`"  # that models write around a name
RUN_ON_WORDS = (
    "json",
    "code",
    "commentary",
    "analysis",
    "final",
)  # header words run on


def is_built_in(recipient: str) -> bool:
    """Whether `recipient` is a tool the model was trained with; it has no prefix."""
    return recipient == "python" or recipient.startswith("browser.")


def is_tool_name(word: str) -> bool:
    """Whether `word` has the form of a tool's recipient, offered or not."""
    return word.startswith(FUNCTION_PREFIX) or is_built_in(word)


@dataclass(frozen=True)
class CalledTool:
    """The tool that a call addresses: its recipient as prompts spell it, and its name.

    `parameters` is the schema of its arguments, if the caller gave it.
    """

    recipient: str
    name: str
    offered: bool
    parameters: JsonSchema | None = None
    takes_text: bool = False

    @property
    def built_in(self) -> bool:
        """Whether it is offered and trained to be called on analysis."""
        return self.offered and is_built_in(self.recipient)

    @property
    def takes_json(self) -> bool:
        return not self.takes_text and self.recipient not in PLAIN_TEXT_TOOLS


@dataclass(frozen=True)
class OfferedRecipients:
    """The recipients on offer; `any_name` if the caller did not list them."""

    names: dict[str, str] = field(default_factory=dict)  # recipient -> tool name
    schemas: dict[str, JsonSchema] = field(default_factory=dict)  # by recipient
    any_name: bool = False
    text_tools: frozenset[str] = frozenset()  # recipients that take plain text

    @classmethod
    def from_tools(
        cls,
        tools: Iterable[str | ToolDescription] | None,
        built_in: Iterable[str] = (),
    ) -> "OfferedRecipients":
        names: dict[str, str] = {}
        schemas: dict[str, JsonSchema] = {}
        texts: set[str] = set()
        for tool in tools or ():
            name = tool if isinstance(tool, str) else tool.name
            recipient = FUNCTION_PREFIX + wire_name(name)
            names[recipient] = name
            if isinstance(tool, str):
                continue
            if tool.takes_text:
                texts.add(recipient)
            elif tool.parameters is not None:
                schemas[recipient] = tool.parameters
        names |= {recipient: recipient for recipient in built_in}
        return cls(names, schemas, tools is None, frozenset(texts))

    def find(self, written: str) -> str | None:
        """Return the offered recipient that `written` names, if any."""
        for name in self._candidates(written):
            if name in self.names:
                return name
        return None

    def resolve(self, written: str) -> CalledTool:
        found = self.find(written)
        if found is not None:
            return CalledTool(
                found,
                self.names[found],
                offered=True,
                parameters=self.schemas.get(found),
                takes_text=found in self.text_tools,
            )
        name = written.removeprefix(FUNCTION_PREFIX)
        return CalledTool(written, name, offered=self.any_name and bool(name))

    def missing_message(self, target: CalledTool) -> str:
        """Return the message that tells the model which tools there are."""
        known = ", ".join(f"`{name}`" for name in self.names) or "none"
        return f"there is no tool `{target.recipient}`; the tools are: {known}"

    @staticmethod
    def _candidates(written: str) -> list[str]:
        """Return the name as written, then with common mistakes corrected."""
        bare = written.split("<", 1)[0].strip(PUNCTUATION)
        names = [written, bare]
        names += [
            bare.removesuffix(word).strip(PUNCTUATION)
            for word in RUN_ON_WORDS
            if bare.endswith(word)
        ]
        names += [wire_name(name) for name in list(names)]
        prefixed = [FUNCTION_PREFIX + name for name in names]
        unprefixed = [name.removeprefix(FUNCTION_PREFIX) for name in names]
        return names + prefixed + unprefixed
