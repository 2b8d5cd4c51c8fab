"""Messages -> token ids, segment by segment; knows nothing of models or sampling.

A special token comes only from the structure of a message, never from its text:
a `<|end|>` typed by a user is encoded as the letters it is made of. Any object
with `.encode(text)` and `.special(name)` serves as the vocabulary.

    ids = render_messages(messages, tokenizer)          # a prompt to complete
    pieces = training_pieces(messages)                   # text, special?, target?

    ids = render_messages(messages, tokenizer, begun=True)   # the last one goes on

A recipient stands in the role part of a header (`assistant to=functions.f`), as
OpenAI's library and chat template write history. The model itself writes calls
on commentary with the recipient behind the channel; `recipient_in="channel"`
gives that form.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mlx_gptoss.errors import LongPromptError, PromptError
from mlx_gptoss.harmony.messages import (
    CONSTRAIN,
    FUNCTION_PREFIX,
    Message,
    SystemContent,
    function_tools,
    wire_name,
)
from mlx_gptoss.harmony.render.contents import developer_text, system_text

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
RETURN, CALL = "<|return|>", "<|call|>"


TO_EVERYONE = "all"  # a recipient that is not written
SHORT_PROMPT = 2**17  # characters: a prompt that is counted whole
LONG_WORD = 2**17  # characters: worth to look at before it is encoded
RecipientPosition = Literal["role", "channel"]


class Vocabulary(Protocol):
    """What rendering needs of a tokenizer. `encode` never makes special tokens."""

    def encode(self, text: str) -> list[int]: ...
    def special(self, name: str) -> int: ...


class CountingVocabulary(Vocabulary, Protocol):
    """A vocabulary that can stop early: see `Tokenizer`, which is one."""

    def split(self, text: str) -> Iterator[str]: ...
    def min_token_count(self, text: str, *, tight: bool = False) -> int: ...


@dataclass(frozen=True)
class Piece:
    """A stretch that is encoded as a whole: one special token, or plain text.

    `target` marks what a model is trained to write.
    """

    text: str
    special: bool = False
    target: bool = False


def render_message(
    message: Message,
    vocabulary: Vocabulary,
    *,
    has_function_tools: bool = False,
    recipient_in: RecipientPosition = "role",
) -> list[int]:
    """Render one message with its closing token.

    `has_function_tools` adds the line about them to a system message.
    """
    pieces = message_pieces(
        message, has_function_tools=has_function_tools, recipient_in=recipient_in
    )
    return encode_pieces(pieces, vocabulary)


def render_messages(
    messages: Iterable[Message],
    vocabulary: Vocabulary,
    *,
    complete: bool = True,
    keep_analysis: bool = False,
    recipient_in: RecipientPosition = "role",
    continue_last: bool = False,
) -> list[int]:
    """Render a conversation as history, and the start of the next assistant message.

    Analysis of finished turns is left out unless `keep_analysis`; with
    `complete=False` nothing follows the last message. With `begun` the last message
    is an answer to go on with: it is not closed, and its turn is not finished.
    """
    pieces = history_pieces(
        messages,
        complete=complete,
        keep_analysis=keep_analysis,
        recipient_in=recipient_in,
        continue_last=continue_last,
    )
    return encode_pieces(pieces, vocabulary)


def history_pieces(
    messages: Iterable[Message],
    *,
    complete: bool = True,
    keep_analysis: bool = False,
    recipient_in: RecipientPosition = "role",
    continue_last: bool = False,
) -> list[Piece]:
    """The pieces of `render_messages`: its exact text, and where tokens break."""
    given = list(messages)
    last = given[-1:] if continue_last else []
    if continue_last and not (last and can_continue(last[0])):
        raise PromptError("the last message is no answer that could be gone on with")
    shown = given[: len(given) - len(last)]
    kept = [*(shown if keep_analysis else drop_analysis(shown)), *last]
    with_tools = bool(function_tools(given))
    pieces = []
    for message in kept:
        pieces += message_pieces(
            message, has_function_tools=with_tools, recipient_in=recipient_in
        )
    if continue_last:
        return pieces[:-1]
    if complete:
        pieces += [Piece(START, special=True), Piece("assistant")]
    return pieces


def continuation_pieces(message: Message) -> list[Piece]:
    """What a begun answer has behind `<|start|>assistant`."""
    return message_pieces(message)[2:-1]


def can_continue(message: Message) -> bool:
    """Whether an answer may be gone on with: one that has some text."""
    return _ends_turn(message) and bool(message.text)


def training_pieces(
    messages: Iterable[Message], *, recipient_in: RecipientPosition = "role"
) -> list[Piece]:
    """The pieces of a training example: everything kept, the last turn a target.

    Targets are what a model writes after `<|start|>assistant`: the assistant
    messages since the last message of another role, their closing tokens, and
    the starts between them. A last message on `final` ends with `<|return|>`.
    Call `drop_analysis` first to train on history as it is shown at run time.
    """
    given = list(messages)
    with_tools = bool(function_tools(given))
    first_target = len(given)
    while first_target > 0 and given[first_target - 1].role == "assistant":
        first_target -= 1
    pieces: list[Piece] = []
    for index, message in enumerate(given):
        own = message_pieces(
            message, has_function_tools=with_tools, recipient_in=recipient_in
        )
        if message is given[-1] and _is_final(message):
            own[-1] = Piece(RETURN, special=True)
        if index >= first_target:
            prompted = 2 if index == first_target else 0  # `<|start|>`, `assistant`
            own = own[:prompted] + [
                Piece(piece.text, piece.special, target=True)
                for piece in own[prompted:]
            ]
        pieces += own
    return pieces


def drop_analysis(messages: Sequence[Message]) -> list[Message]:
    """Leave out the analysis of finished turns: all of it before the last final.

    Since then the model may be in a tool loop and needs what it thought. Calls
    of functions and their results stay wherever they were written.
    """
    ends = [index for index, message in enumerate(messages) if _ends_turn(message)]
    last_final = ends[-1] if ends else -1
    return [
        message
        for index, message in enumerate(messages)
        if index > last_final
        or message.channel != "analysis"
        or _is_function_traffic(message)
    ]


def message_pieces(
    message: Message,
    *,
    has_function_tools: bool = False,
    recipient_in: RecipientPosition = "role",
) -> list[Piece]:
    """Cut one message into the stretches that are encoded on their own."""
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
    """Write out the content of a message, without its header."""
    content = message.content
    if isinstance(content, str):
        return content
    if isinstance(content, SystemContent):
        return system_text(content, has_function_tools=has_function_tools)
    return developer_text(content)


def encode_within(
    pieces: Iterable[Piece],
    vocabulary: CountingVocabulary,
    context: int | None,
    *,
    count_to: int | None = None,
) -> list[int]:
    """Encode a prompt, but a long one only if it leaves room for an answer.

    Raises LongPromptError as soon as it cannot: before anything is encoded, if it has
    too many bytes. With `counted` it is encoded to so many tokens all the same.
    """
    pieces = list(pieces)
    short = sum(len(piece.text) for piece in pieces) <= SHORT_PROMPT
    if context is None or short:
        return encode_pieces(pieces, vocabulary)
    least = sum(
        1 if piece.special else vocabulary.min_token_count(piece.text)
        for piece in pieces
    )
    if least >= context:
        raise LongPromptError(least, context)
    most = context if count_to is None else count_to
    ids: list[int] = []
    for piece in pieces:
        if piece.special:
            ids.append(vocabulary.special(piece.text))
            continue
        for part in vocabulary.split(whole_characters(piece.text)):
            if len(part) > LONG_WORD:
                least = len(ids) + vocabulary.min_token_count(part, tight=True)
                if least >= most:
                    raise LongPromptError(least, context)
            ids += vocabulary.encode(part)
            if len(ids) >= most:
                raise LongPromptError(len(ids), context)
    return ids


def encode_pieces(pieces: Iterable[Piece], vocabulary: Vocabulary) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        if piece.special:
            ids.append(vocabulary.special(piece.text))
        else:
            ids += vocabulary.encode(whole_characters(piece.text))
    return ids


def pieces_text(pieces: Iterable[Piece]) -> str:
    """Join pieces to the text a person reads (specials are not told apart)."""
    return "".join(piece.text for piece in pieces)


def whole_characters(text: str) -> str:
    """Join split surrogates and replace lone ones, which no encoding can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _author(message: Message) -> str:
    if message.role == "tool":
        if not message.name:
            raise PromptError("a tool message needs `name`, the tool that answered")
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


def _is_final(message: Message) -> bool:
    return message.role == "assistant" and message.channel == "final"


def _ends_turn(message: Message) -> bool:
    """A final, or an answer on no channel or one nobody knows."""
    on_final = message.channel not in ("analysis", "commentary")
    return message.role == "assistant" and on_final and not message.is_call


def _is_function_traffic(message: Message) -> bool:
    party = message.name if message.role == "tool" else message.recipient
    return bool(party) and str(party).startswith(FUNCTION_PREFIX)
