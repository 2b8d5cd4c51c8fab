"""Render messages as token ids, byte-identical to OpenAI's renderer."""

from mlx_gptoss.harmony.render.prompt import (
    Piece,
    Place,
    Vocabulary,
    begun_pieces,
    drop_analysis,
    encode_pieces,
    encode_within,
    history_pieces,
    is_begun,
    message_pieces,
    pieces_text,
    render_message,
    render_messages,
    training_pieces,
)

__all__ = [
    "Piece",
    "Place",
    "Vocabulary",
    "begun_pieces",
    "drop_analysis",
    "encode_pieces",
    "encode_within",
    "history_pieces",
    "is_begun",
    "message_pieces",
    "pieces_text",
    "render_message",
    "render_messages",
    "training_pieces",
]
