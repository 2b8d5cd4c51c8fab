"""Render messages as the token ids of a prompt.

    ids = render_messages(messages, tokenizer)               # a prompt to complete
    ids = render_messages(messages, tokenizer, continue_last=True)   # the last goes on
    pieces = training_pieces(messages)                        # text, special?, target?

Decides which messages a prompt keeps; `pieces.py` cuts each one into special tokens and
texts, `encode.py` encodes those. Knows nothing of models or sampling.
"""

from collections.abc import Iterable, Sequence

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import FUNCTION_PREFIX, Message, function_tools
from mlx_gptoss.harmony.render.encode import Vocabulary, encode_pieces
from mlx_gptoss.harmony.render.pieces import Piece, RecipientPosition, message_pieces
from mlx_gptoss.harmony.special_tokens import RETURN, START


def render_message(
    message: Message,
    vocabulary: Vocabulary,
    *,
    has_function_tools: bool = False,
    recipient_in: RecipientPosition = "role",
) -> list[int]:
    """Render one message with its closing token.

    `has_function_tools` adds the line about function tools to a system message.
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
    `complete=False` nothing follows the last message. With `continue_last` the last
    message is a partial answer to continue: it is not closed, and its turn not ended.
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
    """Return the pieces that `render_messages` encodes."""
    given = list(messages)
    last = given[-1:] if continue_last else []
    if continue_last and not (last and can_continue(last[0])):
        raise PromptError("the last message is not an answer that can be continued")
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
    """Return the pieces of a partial answer behind `<|start|>assistant`."""
    return message_pieces(message)[2:-1]


def can_continue(message: Message) -> bool:
    """Whether a message is an answer with some text, which can be continued."""
    return _ends_turn(message) and bool(message.text)


def training_pieces(
    messages: Iterable[Message], *, recipient_in: RecipientPosition = "role"
) -> list[Piece]:
    """Return the pieces of a training example, with the last turn as the target.

    Targets are what a model writes after `<|start|>assistant`: the assistant messages
    since the last message of another role, their closing tokens, and the starts
    between them. A last message on `final` ends with `<|return|>`. All analysis is
    kept: call `drop_analysis` first to train on history as prompts show it.
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

    After that the model may be in a tool loop and needs its reasoning. Calls of
    functions and their results are kept on any channel.
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


def _is_final(message: Message) -> bool:
    return message.role == "assistant" and message.channel == "final"


def _ends_turn(message: Message) -> bool:
    """Whether a message is an answer: on `final`, on no channel or an unknown one."""
    on_final = message.channel not in ("analysis", "commentary")
    return message.role == "assistant" and on_final and not message.is_call


def _is_function_traffic(message: Message) -> bool:
    party = message.name if message.role == "tool" else message.recipient
    return bool(party) and str(party).startswith(FUNCTION_PREFIX)
