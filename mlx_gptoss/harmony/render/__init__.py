"""Render messages as token ids, byte-identical to OpenAI's renderer."""

from mlx_gptoss.harmony.render.encode import Vocabulary, encode_pieces, encode_within
from mlx_gptoss.harmony.render.pieces import (
    Piece,
    RecipientPosition,
    message_pieces,
    pieces_text,
)
from mlx_gptoss.harmony.render.prompt import (
    can_continue,
    continuation_pieces,
    drop_analysis,
    history_pieces,
    render_message,
    render_messages,
    training_pieces,
)

Place = RecipientPosition  # the former name, importable until 0.3

__all__ = [
    "Piece",
    "Place",
    "RecipientPosition",
    "Vocabulary",
    "can_continue",
    "continuation_pieces",
    "drop_analysis",
    "encode_pieces",
    "encode_within",
    "history_pieces",
    "message_pieces",
    "pieces_text",
    "render_message",
    "render_messages",
    "training_pieces",
]
