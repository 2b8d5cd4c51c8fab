"""Batches of training rows: streams of documents, and copies (torch)."""

# pyright: reportMissingImports=false

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from examples.demo_model import rows
from examples.demo_model.data import Author
from examples.demo_model.recipe import COPY_LENGTH, COPY_ROWS, PHASES, Stream
from examples.demo_model.tokenizer import Encoder

SEED = 1
BLOCK = 200  # steps between checkpoints; streams are seeded anew for each block


class Batches:
    """The batches of one process; the same for a seed, rank and block of steps."""

    def __init__(self, encoder: Encoder, rank: int) -> None:
        self.encoder, self.rank = encoder, rank
        self.vocabulary = encoder.tokenizer.get_vocab_size()

    def start_block(self, step: int) -> None:
        base = (SEED * 1000 + step // BLOCK) * 1000 + self.rank * 100
        self.phase = PHASES[max(start for start in PHASES if start <= step)]
        copies = rows.Copies(base, self.encoder, self.vocabulary)
        made = copies.worded if self.phase.worded else copies.plain
        lengths = {stream.length for stream in self.phase.streams} | {COPY_LENGTH}
        self.copies = {length: made(length) for length in sorted(lengths)}
        self.documents = {
            stream.name: rows.document_rows(
                Author(base + 20 + i, mix=stream.mix), self.encoder, stream.length
            )
            for i, stream in enumerate(self.phase.streams)
        }

    def of(self, step: int) -> list[tuple[list[str], Tensor]]:
        """Return a step's batches (B, 5, L) by length, with the names of their rows."""
        if self.phase.copies == 1:
            alone = [self.copies[COPY_LENGTH]] * COPY_ROWS
            return [(["copy"] * COPY_ROWS, _stacked(alone))]
        streams = self.phase.streams
        drawn: dict[int, list[tuple[str, Iterator[np.ndarray]]]] = {}
        for stream, after in itertools.zip_longest(streams, streams[1:]):
            if _turn(stream, after, step):
                copied = 0 if stream.every else _due(self.phase.copies, step, stream)
                sources = drawn.setdefault(stream.length, [])
                sources += [("copy", self.copies[stream.length])] * copied
                own = (stream.name, self.documents[stream.name])
                sources += [own] * (stream.rows - copied)
        return [
            ([name for name, _ in sources], _stacked([rows for _, rows in sources]))
            for sources in drawn.values()
        ]


def _turn(stream: Stream, after: Stream | None, step: int) -> bool:
    """Replace a stream by the next one, if that has `every`, at regular steps."""
    if stream.every:
        return step % stream.every == 0
    return not (after and after.every and step % after.every == 0)


def _due(share: float, step: int, stream: Stream) -> int:
    """Number of whole rows that a share of a stream's rows gives at this step."""
    share *= stream.rows
    return int(share * (step + 1)) - int(share * step)


def _stacked(sources: list[Iterator[np.ndarray]]) -> Tensor:
    return torch.from_numpy(np.stack([next(source) for source in sources])).long()
