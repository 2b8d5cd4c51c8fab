"""Show a training document as text, with the learned tokens marked."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Protocol

from mlx_gptoss.workloads.tune.documents import TrainingDocument

BRACKETS = ("[[", "]]")


class Decoder(Protocol):
    """The part of a tokenizer that shows ids as text."""

    def decode(self, ids: Iterable[int], /) -> str: ...


def marked_texts(
    document: TrainingDocument, tokenizer: Decoder
) -> Iterator[tuple[str, bool]]:
    """Yield the text of a document in pieces, each with whether it is learned."""
    pairs = zip(document.ids.tolist(), document.learned.tolist(), strict=True)
    for learned, run in groupby(pairs, key=lambda pair: pair[1]):
        yield tokenizer.decode([token for token, _ in run]), learned


def bracketed(document: TrainingDocument, tokenizer: Decoder) -> str:
    """Return the text with what is learned in `[[ ]]`."""
    before, behind = BRACKETS
    return "".join(
        f"{before}{text}{behind}" if learned else text
        for text, learned in marked_texts(document, tokenizer)
    )
