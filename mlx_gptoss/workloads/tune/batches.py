"""Batches of whole documents, packed one after another, in a repeatable order.

    batches = TrainingBatches(corpus.train, tokens=4096, seed=0)
    for batch in batches.start(epoch, index):     # goes on from there, without end
        packed = batch.packed()

A document of a batch must not attend to another one: then a packed batch gives what its
documents give alone. The order is a function of seed and epoch, so that a position is
all that a resumed run needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.errors import ExamplesError
from mlx_gptoss.workloads.tune.document_index import TrainingDocuments
from mlx_gptoss.workloads.tune.documents import TrainingDocument

OPEN_BATCHES = 16  # that are filled at once: more pack closer and shuffle less


@dataclass(frozen=True, eq=False)
class PackedTokens:
    """Documents one after another, N tokens in all, each without its last token.

    inputs (N,) int32; targets (N,) int32: the token behind each; learned (N,) bool:
    whether the target counts; positions (N,) int32, from 0 in each document; segments
    (N,) int32: the number of the document; lengths: the tokens of each.
    """

    inputs: np.ndarray
    targets: np.ndarray
    learned: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    lengths: tuple[int, ...]

    def halves(self) -> tuple["PackedTokens", "PackedTokens"]:
        """Divide two or more documents into two parts of about as many tokens.

        The longest are dealt out first, each to the smaller part.
        """
        assert len(self.lengths) > 1, f"{self.lengths=}"
        parts: tuple[list[int], list[int]] = ([], [])
        totals = [0, 0]
        for number in sorted(range(len(self.lengths)), key=lambda n: -self.lengths[n]):
            smaller = int(totals[1] < totals[0])
            parts[smaller].append(number)
            totals[smaller] += self.lengths[number]
        return self.select(sorted(parts[0])), self.select(sorted(parts[1]))

    def select(self, numbers: Sequence[int]) -> "PackedTokens":
        """Return some of the documents, given by number, in order."""
        own = np.isin(self.segments, numbers)
        lengths = tuple(self.lengths[number] for number in numbers)
        return PackedTokens(
            inputs=self.inputs[own],
            targets=self.targets[own],
            learned=self.learned[own],
            positions=self.positions[own],
            segments=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            lengths=lengths,
        )


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """The documents of a step; `following` is the position of the next batch."""

    documents: tuple[TrainingDocument, ...]
    epoch: int
    index: int
    following: tuple[int, int]

    @property
    def learned_tokens(self) -> int:
        return sum(int(document.learned.sum()) for document in self.documents)

    def packed(self) -> PackedTokens:
        """Return inputs and targets for one forward pass."""
        documents = self.documents
        lengths = tuple(len(document) - 1 for document in documents)
        return PackedTokens(
            inputs=np.concatenate([document.ids[:-1] for document in documents]),
            targets=np.concatenate([document.ids[1:] for document in documents]),
            learned=np.concatenate([document.learned[1:] for document in documents]),
            positions=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            segments=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            lengths=lengths,
        )


class TrainingBatches:
    """Batches of at most `tokens` tokens; without `shuffle`, every epoch is the same.

    Raises ExamplesError if a document is longer than a batch, or if there is none.
    """

    def __init__(
        self,
        documents: TrainingDocuments,
        *,
        tokens: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        if not len(documents):
            raise ExamplesError(["there are no documents to make batches of"])
        longest = int(documents.tokens.argmax())
        if documents.tokens[longest] > tokens:
            raise ExamplesError(
                [
                    f"{documents.where(longest)} has {documents.tokens[longest]:,} "
                    f"tokens and a batch holds {tokens:,}: make batches larger, or "
                    "documents shorter with --length"
                ]
            )
        self._documents = documents
        self._tokens = tokens
        self._seed = seed
        self._shuffle = shuffle
        self._planned = (-1, [[0]])  # the epoch planned last

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the numbers of the documents of each batch of an epoch."""
        epoch = epoch if self._shuffle else 0
        if self._planned[0] != epoch:
            self._planned = (epoch, self._make_plan(epoch))
        return self._planned[1]

    def count(self, epoch: int = 0) -> int:
        """Return how many batches an epoch has."""
        return len(self.plan(epoch))

    def batch(self, epoch: int, index: int) -> TrainingBatch:
        """Read the documents of one batch."""
        plan = self.plan(epoch)
        documents = tuple(self._documents[number] for number in plan[index])
        last = index + 1 == len(plan)
        following = (epoch + 1, 0) if last else (epoch, index + 1)
        return TrainingBatch(documents, epoch, index, following)

    def start(self, epoch: int = 0, index: int = 0) -> Iterator[TrainingBatch]:
        """Yield batches without end, from a position on."""
        position = (epoch, index)
        while True:
            batch = self.batch(*position)
            yield batch
            position = batch.following

    def epoch(self, epoch: int = 0) -> Iterator[TrainingBatch]:
        """Yield the batches of one epoch, as a validation needs."""
        return (self.batch(epoch, index) for index in range(self.count(epoch)))

    def _make_plan(self, epoch: int) -> list[list[int]]:
        sizes = self._documents.tokens.tolist()
        if not self._shuffle:
            return packed_in_order(sizes, range(len(sizes)), self._tokens)
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(len(sizes)).tolist()
        plan = packed_in_order(sizes, order, self._tokens)
        return [plan[place] for place in random.permutation(len(plan))]


def packed_in_order(
    sizes: Sequence[int], order: Sequence[int], most: int
) -> list[list[int]]:
    """Put documents into batches of at most `most` tokens, each where it fits closest.

    Only OPEN_BATCHES are filled at once; then the fullest is closed.
    """
    closed: list[list[int]] = []
    batches: list[list[int]] = []
    totals: list[int] = []
    for number in order:
        size = sizes[number]
        fitting = [place for place, total in enumerate(totals) if total + size <= most]
        if fitting:
            place = max(fitting, key=totals.__getitem__)
            batches[place].append(number)
            totals[place] += size
            continue
        if len(batches) == OPEN_BATCHES:
            fullest = max(range(len(totals)), key=totals.__getitem__)
            closed.append(batches.pop(fullest))
            totals.pop(fullest)
        batches.append([number])
        totals.append(size)
    return closed + batches
