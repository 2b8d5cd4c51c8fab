"""Cut a message into pieces: special tokens, and texts that are encoded as a whole.

A special token comes only from the structure of a message, never from its text. A
recipient stands in the role part of the header (`assistant to=functions.f`), as
OpenAI's library and chat template write history. The model itself writes calls on
commentary with the recipient behind the channel; `recipient_in="channel"` gives that
form. Knows no token ids.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import Message, SystemContent, wire_name
from mlx_gptoss.harmony.render.contents import developer_text, system_text
from mlx_gptoss.harmony.special_tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    START,
)

TO_EVERYONE = "all"  # a recipient that is not written
RecipientPosition = Literal["role", "channel"]


@dataclass(frozen=True)
class Piece:
    """A string that is encoded as a whole: one special token, or plain text.

    `target` marks what a model is trained to write.
    """

    text: str
    special: bool = False
    target: bool = False


def message_pieces(
    message: Message,
    *,
    has_function_tools: bool = False,
    recipient_in: RecipientPosition = "role",
) -> list[Piece]:
    """Cut one message into pieces, from `<|start|>` to its closing token."""
    pieces = [Piece(START, special=True), Piece(_author(message))]
    recipient = _recipient(message)
    channel = _channel(message)
    behind = recipient_in == "channel" and message.channel == "commentary"
    pieces += [*channel, *recipient] if behind else [*recipient, *channel]
    pieces += _content_type(message.content_type)
    pieces.append(Piece(MESSAGE, special=True))
    if text := content_text(message, has_function_tools=has_function_tools):
        pieces.append(Piece(text))
    pieces.append(Piece(CALL if message.is_call else END, special=True))
    return pieces


def content_text(message: Message, *, has_function_tools: bool = False) -> str:
    """Return the content of a message as text, without its header."""
    content = message.content
    if isinstance(content, str):
        return content
    if isinstance(content, SystemContent):
        return system_text(content, has_function_tools=has_function_tools)
    return developer_text(content)


def pieces_text(pieces: Iterable[Piece]) -> str:
    """Join pieces as readable text (special tokens are not distinguished)."""
    return "".join(piece.text for piece in pieces)


def _author(message: Message) -> str:
    if message.role == "tool":
        if not message.name:
            raise PromptError("a tool message needs a `name`: the tool that answered")
        return wire_name(message.name)
    return f"{message.role}:{wire_name(message.name)}" if message.name else message.role


def _recipient(message: Message) -> list[Piece]:
    if not message.recipient or message.recipient == TO_EVERYONE:
        return []
    return [Piece(f" to={wire_name(message.recipient)}")]


def _channel(message: Message) -> list[Piece]:
    if not message.channel:
        return []
    return [Piece(CHANNEL, special=True), Piece(message.channel)]


def _content_type(content_type: str | None) -> list[Piece]:
    if not content_type:
        return []
    if not content_type.startswith(CONSTRAIN):
        return [Piece(f" {content_type}")]
    kind = content_type.removeprefix(CONSTRAIN)
    mark = [Piece(" "), Piece(CONSTRAIN, special=True)]
    return [*mark, Piece(kind)] if kind else mark
