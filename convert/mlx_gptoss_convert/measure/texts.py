"""The text two models are compared on, as rectangles of token ids.

Harmony conversations that come along, or a text file. Knows no model and no weights.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.harmony.messages import (
    Conversation,
    Message,
    ToolDescription,
    developer,
    function_tools,
    system,
)
from mlx_gptoss.harmony.render.prompt import encode_pieces, message_pieces

CONVERSATIONS = Path(__file__).parent / "data" / "conversations.json"
PROMPTED_PIECES = 2  # `<|start|>` and `assistant` are given to a model, not written

WINDOW = 512  # tokens of one passage of a text file
LEAST_WINDOW = 16  # a shorter remainder is left out
BATCH_TOKENS = 2048  # run at once, padding included


@dataclass(frozen=True)
class EvaluationText:
    """Token ids (L,), and which positions' predictions of their next token count."""

    ids: np.ndarray
    scored: np.ndarray  # bool (L,); never the last


@dataclass(frozen=True)
class TextBatch:
    """Passages side by side: ids and counted are (B, L), padded at the right."""

    ids: np.ndarray
    scored: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """The token that follows each counted position, in their order."""
        following = np.roll(self.ids, -1, axis=1)
        return following[self.scored]


def conversation_texts(tokenizer: Tokenizer) -> list[EvaluationText]:
    """Encode the bundled conversations; what an assistant writes is counted."""
    if not tokenizer.has_harmony:
        raise ConversionError(
            f"`{tokenizer.source}` does not speak Harmony: give a text with `--text`"
        )
    return [
        conversation_text(read_conversation(one), tokenizer)
        for one in json.loads(CONVERSATIONS.read_text(encoding="utf-8"))
    ]


def conversation_text(
    conversation: Conversation, tokenizer: Tokenizer
) -> EvaluationText:
    ids: list[int] = []
    written: list[bool] = []
    has_tools = bool(function_tools(conversation))
    for message in conversation:
        pieces = message_pieces(message, has_function_tools=has_tools)
        for number, piece in enumerate(pieces):
            tokens = encode_pieces([piece], tokenizer)
            by_model = message.role == "assistant" and number >= PROMPTED_PIECES
            ids += tokens
            written += [by_model] * len(tokens)
    return EvaluationText(np.array(ids), np.array([*written[1:], False]))


def read_conversation(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Read one conversation of the JSON file."""
    return Conversation(tuple(map(read_message, messages)))


def read_message(raw: Mapping[str, Any]) -> Message:
    if raw["role"] == "system":
        return system(raw["effort"], conversation_date=raw["date"])
    if raw["role"] == "developer":
        tools = [ToolDescription(**tool) for tool in raw.get("tools", ())]
        return developer(raw["instructions"], tools=tools)
    return Message(**raw)


def file_texts(
    path: Path, tokenizer: Tokenizer, *, first: int | None, limit: int | None = None
) -> list[EvaluationText]:
    """Cut a text file into windows, each led by the token `first` (not counted).

    At most `limit` tokens are taken. Raises ConversionError for what cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"cannot read the text `{path}`: {error}") from error
    ids = tokenizer.encode(text)[:limit]
    lead = [] if first is None else [first]
    windows = [ids[at : at + WINDOW] for at in range(0, len(ids), WINDOW)]
    kept = [window for window in windows if len(window) >= LEAST_WINDOW]
    if not kept:
        raise ConversionError(
            f"`{path}` has {len(ids)} tokens: give a text of {LEAST_WINDOW} or more"
        )
    return [fully_scored(lead + window) for window in kept]


def fully_scored(ids: Sequence[int]) -> EvaluationText:
    """Count every position that has a next token."""
    return EvaluationText(np.array(ids), np.arange(len(ids)) < len(ids) - 1)


def make_batches(
    passages: Sequence[EvaluationText], *, tokens: int = BATCH_TOKENS
) -> Iterator[TextBatch]:
    """Put passages of like length side by side, at most `tokens` (or one passage)."""
    waiting: list[EvaluationText] = []
    for passage in sorted(passages, key=lambda passage: len(passage.ids)):
        if waiting and (len(waiting) + 1) * len(passage.ids) > tokens:
            yield pad(waiting)
            waiting = []
        waiting.append(passage)
    if waiting:
        yield pad(waiting)


def pad(passages: Sequence[EvaluationText]) -> TextBatch:
    """Fill up at the right, where no earlier position sees it."""
    shape = len(passages), max(len(passage.ids) for passage in passages)
    ids, counted = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for row, passage in enumerate(passages):
        ids[row, : len(passage.ids)] = passage.ids
        counted[row, : len(passage.ids)] = passage.scored
    return TextBatch(ids, counted)
