"""Encode pieces as token ids; stop early on a prompt that cannot fit the context.

Any object with `.encode(text)` and `.special(name)` serves as the vocabulary. A
`<|end|>` typed by a user is encoded as the letters it is made of.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony.render.pieces import Piece

SHORT_PROMPT = 2**17  # characters: a shorter prompt is encoded without a check
LONG_WORD = 2**17  # characters: a longer word is bounded before it is encoded


class Vocabulary(Protocol):
    """The part of a tokenizer that rendering uses: `encode` takes text only."""

    def encode(self, text: str) -> list[int]: ...
    def special(self, name: str) -> int: ...


class CountingVocabulary(Vocabulary, Protocol):
    """A vocabulary that can bound the number of tokens, such as `Tokenizer`."""

    def split(self, text: str) -> Iterator[str]: ...
    def min_token_count(self, text: str, *, tight: bool = False) -> int: ...


def encode_within(
    pieces: Iterable[Piece],
    vocabulary: CountingVocabulary,
    context: int | None,
    *,
    count_to: int | None = None,
) -> list[int]:
    """Encode a prompt; give up on a long one that leaves no room for an answer.

    Raises LongPromptError as soon as the prompt cannot fit `context` tokens, before
    anything is encoded if it has too many bytes. `count_to` raises the limit for
    counting its tokens, once the bytes allow it to fit.
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
    """Encode pieces one by one as token ids."""
    ids: list[int] = []
    for piece in pieces:
        if piece.special:
            ids.append(vocabulary.special(piece.text))
        else:
            ids += vocabulary.encode(whole_characters(piece.text))
    return ids


def whole_characters(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
