"""Cut a conversation into training documents, with what is learned marked.

A turn is what the assistant writes from a message of somebody else up to its answer,
with the calls and results on the way. It is learned behind the prompt that the model
would be given there: without the analysis of the turns before (`drop_analysis`). So a
turn with analysis ends a document, because later prompts leave that analysis out; turns
without share the next document, whose prompt repeats them as they are.

    documents = example_documents(example, train_on=("analysis", "final", "calls"))
    documents[0]              # list of Piece; `target` marks what is learned

Of a message that is learned, the model writes everything behind `<|start|>assistant`,
and these two as well if it goes on behind its own `<|end|>`. It does not write them
behind `<|call|>`, where it stops, nor the `<|end|>` with which later prompts repeat an
answer: it ends with `<|return|>` there.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mlx_gptoss.harmony.messages import Message, function_tools
from mlx_gptoss.harmony.render.pieces import Piece, RecipientPosition, message_pieces
from mlx_gptoss.harmony.render.prompt import drop_analysis
from mlx_gptoss.harmony.special_tokens import RETURN
from mlx_gptoss.workloads.tune.examples import (
    TrainedKind,
    TrainingExample,
    trained_kind,
)

PROMPTED = 2  # pieces: `<|start|>` and `assistant`


@dataclass(frozen=True)
class Turn:
    """The places `first` to `stop` of a conversation, and `view`, its prompt's."""

    first: int
    stop: int
    view: tuple[int, ...]


def example_documents(
    example: TrainingExample,
    *,
    train_on: Collection[TrainedKind],
    recipient_in: RecipientPosition = "role",
) -> list[list[Piece]]:
    """Return the documents of a conversation, without those that teach nothing.

    A document ends with its last learned message.
    """
    messages = example.messages
    learned = {
        place for place in example.learned if trained_kind(messages[place]) in train_on
    }
    documents = []
    for group in _groups(messages):
        own = {
            place
            for turn in group
            for place in range(turn.first, turn.stop)
            if place in learned
        }
        if own:
            last = group[-1]
            places = [*last.view, *range(last.first, last.stop)]
            shown = [place for place in places if place <= max(own)]
            documents.append(_pieces(messages, shown, own, recipient_in))
    return documents


def _groups(messages: Sequence[Message]) -> list[list[Turn]]:
    """Group the turns that share a document: each is part of the next one's prompt."""
    groups: list[list[Turn]] = []
    for turn in _turns(messages):
        before = groups[-1][-1] if groups else None
        shared = before is not None and (
            [place for place in turn.view if place < before.stop]
            == [*before.view, *range(before.first, before.stop)]
        )
        if shared:
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return groups


def _turns(messages: Sequence[Message]) -> Iterator[Turn]:
    first = None
    for place, message in enumerate(messages):
        if message.role == "assistant" and first is None:
            first = place
        elif message.role not in ("assistant", "tool") and first is not None:
            yield Turn(first, place, _view(messages, first))
            first = None
        if first is not None and _ends_turn(message):
            yield Turn(first, place + 1, _view(messages, first))
            first = None
    if first is not None:
        yield Turn(first, len(messages), _view(messages, first))


def _view(messages: Sequence[Message], stop: int) -> tuple[int, ...]:
    """Return the places of the messages before `stop` that a prompt there shows."""
    kept = drop_analysis(messages[:stop])
    places, at = [], 0
    for message in kept:
        while messages[at] is not message:
            at += 1
        places.append(at)
        at += 1
    return tuple(places)


def _ends_turn(message: Message) -> bool:
    return message.role == "assistant" and trained_kind(message) == "final"


def _pieces(
    messages: Sequence[Message],
    shown: Sequence[int],
    learned: Collection[int],
    recipient_in: RecipientPosition,
) -> list[Piece]:
    with_tools = bool(function_tools(messages[place] for place in shown))
    pieces: list[Piece] = []
    goes_on = False  # whether the model writes on behind the message before
    for place in shown:
        message = messages[place]
        own = message_pieces(
            message, has_function_tools=with_tools, recipient_in=recipient_in
        )
        ended, last = _ends_turn(message), place == shown[-1]
        if ended and last:
            own[-1] = Piece(RETURN, special=True)
        if place in learned:
            begin = 0 if goes_on else PROMPTED
            end = len(own) - 1 if ended and not last else len(own)
            own[begin:end] = [
                Piece(piece.text, piece.special, target=True)
                for piece in own[begin:end]
            ]
        pieces += own
        goes_on = message.role == "assistant" and not (ended or message.is_call)
    return pieces
