"""The texts that models are compared on, as batches of token ids.

Bundled Harmony conversations, or a text file. Knows no model and no weights.
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
    Message,
    ToolDescription,
    developer,
    function_tools,
    system,
)
from mlx_gptoss.harmony.render.encode import encode_pieces
from mlx_gptoss.harmony.render.pieces import message_pieces

CONVERSATIONS = Path(__file__).parent / "data" / "conversations.json"
PROMPTED_PIECES = 2  # `<|start|>` and `assistant` are part of the prompt

WINDOW = 512  # tokens of one window of a text file
MIN_WINDOW = 16  # a shorter remainder is dropped
BATCH_TOKENS = 2048  # tokens of one batch, padding included


@dataclass(frozen=True)
class EvaluationText:
    """Token ids (L,), and the positions whose next-token predictions are scored."""

    ids: np.ndarray
    scored: np.ndarray  # bool (L,); never the last


@dataclass(frozen=True)
class TextBatch:
    """A batch of texts: `ids` and `scored` are (B, L), padded on the right."""

    ids: np.ndarray
    scored: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """The tokens (N,) that follow the scored positions."""
        following = np.roll(self.ids, -1, axis=1)
        return following[self.scored]


def conversation_texts(tokenizer: Tokenizer) -> list[EvaluationText]:
    """Encode the bundled conversations; the tokens an assistant writes are scored."""
    if not tokenizer.has_harmony:
        raise ConversionError(
            f"`{tokenizer.source}` does not speak Harmony: give a text with `--text`"
        )
    return [
        conversation_text(read_conversation(one), tokenizer)
        for one in json.loads(CONVERSATIONS.read_text(encoding="utf-8"))
    ]


def conversation_text(
    conversation: Sequence[Message], tokenizer: Tokenizer
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


def read_conversation(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Parse one conversation of the JSON file."""
    return list(map(read_message, messages))


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
    """Split a text file into windows, each starting with the token `first`, if any.

    Uses at most `limit` tokens. Raises ConversionError if the file cannot be read or is
    too short.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"cannot read the text `{path}`: {error}") from error
    ids = tokenizer.encode(text)[:limit]
    lead = [] if first is None else [first]
    windows = [ids[at : at + WINDOW] for at in range(0, len(ids), WINDOW)]
    kept = [window for window in windows if len(window) >= MIN_WINDOW]
    if not kept:
        raise ConversionError(
            f"`{path}` has {len(ids)} tokens: give a text of {MIN_WINDOW} or more"
        )
    return [fully_scored(lead + window) for window in kept]


def fully_scored(ids: Sequence[int]) -> EvaluationText:
    """Score every position that has a next token."""
    return EvaluationText(np.array(ids), np.arange(len(ids)) < len(ids) - 1)


def make_batches(
    texts: Sequence[EvaluationText], *, tokens: int = BATCH_TOKENS
) -> Iterator[TextBatch]:
    """Batch texts of similar length, at most `tokens` per batch (or one text)."""
    waiting: list[EvaluationText] = []
    for text in sorted(texts, key=lambda text: len(text.ids)):
        if waiting and (len(waiting) + 1) * len(text.ids) > tokens:
            yield pad(waiting)
            waiting = []
        waiting.append(text)
    if waiting:
        yield pad(waiting)


def pad(texts: Sequence[EvaluationText]) -> TextBatch:
    """Pad on the right, where causal attention does not see it."""
    shape = len(texts), max(len(text.ids) for text in texts)
    ids, scored = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = text.ids
        scored[row, : len(text.ids)] = text.scored
    return TextBatch(ids, scored)
