"""Training rows of token ids: documents as trees, packed into rows.

A row is an int32 array (5, length): ids, positions, document, branch, target.
Branch 0 is a document's start, seen by all its branches, whose positions follow it.
"""

import random
from collections.abc import Callable, Iterator

import numpy as np

from examples.demo_model.data import Author, Document, branch_pieces
from examples.demo_model.tokenizer import SPECIALS
from examples.demo_model.words import Words
from mlx_gptoss.harmony.render.encode import Vocabulary
from mlx_gptoss.harmony.render.pieces import Piece

IDS, POSITIONS, DOCUMENT, BRANCH, TARGET = range(5)
PADDING = (0, 0, -1, 0, 0)
WORD_START, WORD_INSIDE = 2, 3  # targets too: the tokens of a copied word
OPEN_ROWS = 24
GAPS = (" ", ", ", ",", "; ", " and ")
PAIRINGS = (  # before the first word, between the two, after the second
    ('"', '":"', '",'),
    (" ", " ", ","),
    (" ", ": ", ","),
    (" the ", " is ", " and"),
    (" ", " = ", ","),
    (" ", "=", ","),
    (" ", "_", " "),
)
SHORT_START = 90  # tokens that may be written twice
SHUFFLED = 64  # rows shuffled together
TIMES = 2  # times each row is used, since making rows is slow
Tokens = tuple[list[int], list[int]]  # ids and whether each is a target


def encode(pieces: list[Piece], vocabulary: Vocabulary) -> Tokens:
    ids: list[int] = []
    targets: list[int] = []
    for piece in pieces:
        own = (
            [vocabulary.special(piece.text)]
            if piece.special
            else vocabulary.encode(piece.text)
        )
        ids += own
        targets += [int(piece.target)] * len(own)
    return ids, targets


def trees(
    document: Document, vocabulary: Vocabulary, length: int
) -> Iterator[tuple[list[int], list[Tokens]]]:
    """Split a document into trees of at most `length` tokens, each with the start."""
    start: list[int] = []
    branches: list[Tokens] = []
    size = 0
    for branch in document.branches:
        start_pieces, pieces = branch_pieces(document.start, branch)
        if not start:
            start = encode(start_pieces, vocabulary)[0]
            size = len(start)
        tokens = encode(pieces, vocabulary)
        if len(start) + len(tokens[0]) > length:
            continue
        if size + len(tokens[0]) > length:
            yield start, branches
            branches, size = [], len(start)
        branches.append(tokens)
        size += len(tokens[0])
    if branches:
        yield start, branches


class Row:
    """A row being filled."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.columns: list[list[int]] = [[] for _ in PADDING]
        self.documents = 0

    def fits(self, size: int) -> bool:
        return len(self.columns[IDS]) + size <= self.length

    def add(self, start: list[int], branches: list[Tokens]) -> None:
        self.documents += 1
        self._extend(start, 0, 0, [0] * len(start))
        for number, (ids, targets) in enumerate(branches):
            self._extend(ids, len(start), number + 1, targets)

    def add_alone(self, ids: list[int], targets: list[int]) -> None:
        """Add a document without branches, which may exceed the row."""
        self.documents += 1
        self._extend(ids, 0, 0, targets)

    def _extend(self, ids: list[int], at: int, branch: int, targets: list[int]) -> None:
        size = len(ids)
        self.columns[IDS] += ids
        self.columns[POSITIONS] += range(at, at + size)
        self.columns[DOCUMENT] += [self.documents] * size
        self.columns[BRANCH] += [branch] * size
        self.columns[TARGET] += targets

    def array(self) -> np.ndarray:
        missing = self.length - len(self.columns[IDS])
        return np.array(
            [
                column + [fill] * missing
                for column, fill in zip(self.columns, PADDING, strict=True)
            ],
            dtype=np.int32,
        )


def document_rows(
    author: Author, vocabulary: Vocabulary, length: int
) -> Iterator[np.ndarray]:
    """Yield rows of `length` tokens endlessly."""
    packer = Packer(length)
    while True:
        for start, branches in trees(author.document(), vocabulary, length):
            packer.place(start, branches)
        if len(packer.full) >= SHUFFLED:
            for _ in range(TIMES):
                author.words.rng.shuffle(packer.full)
                yield from packer.full
            packer.full = []


class Packer:
    """Packs trees into rows; a tree with a short start may be split over two."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.open: list[Row] = []
        self.full: list[np.ndarray] = []

    def place(self, start: list[int], branches: list[Tokens]) -> None:
        size = len(start) + sum(len(ids) for ids, _ in branches)
        if row := self._room(size):
            row.add(start, branches)
        elif len(branches) > 1 and (
            len(start) <= SHORT_START or len(self.open) == OPEN_ROWS
        ):
            self.place(start, branches[: len(branches) // 2])
            self.place(start, branches[len(branches) // 2 :])
        else:
            if len(self.open) == OPEN_ROWS:
                fullest = max(self.open, key=lambda row: len(row.columns[IDS]))
                self.open.remove(fullest)
                self.full.append(fullest.array())
            self.open.append(Row(self.length))
            self.open[-1].add(start, branches)

    def _room(self, size: int) -> Row | None:
        """Return the fullest row with room."""
        fitting = [row for row in self.open if row.fits(size)]
        return max(fitting, key=lambda row: len(row.columns[IDS]), default=None)


class Copies:
    """Rows that teach copying: without them, the model learns templates instead.

    `plain` repeats sequences of random tokens; `worded` repeats sequences of a few
    different tokens, and lists and pairs of words as in the tasks, so that one token
    is not enough to find the place to copy from.
    """

    def __init__(
        self, seed: int, vocabulary: Vocabulary, size: int, *, held_out: bool = False
    ) -> None:
        self.rng = random.Random(seed)
        self.words = Words(self.rng, held_out=held_out, novelty=0.8)
        self.encode = vocabulary.encode
        self.size = size - len(SPECIALS)

    def plain(self, length: int) -> Iterator[np.ndarray]:
        return self._rows(length, [self._stretches])

    def worded(self, length: int) -> Iterator[np.ndarray]:
        makers = [self._stretches, self._few, self._list, self._pairs, self._pairs]
        return self._rows(length, makers)

    def _rows(
        self, length: int, makers: list[Callable[[], Tokens]]
    ) -> Iterator[np.ndarray]:
        while True:
            row = Row(length)
            while len(row.columns[IDS]) < length:
                row.add_alone(*self.words.pick(makers)())
            yield np.array([column[:length] for column in row.columns], dtype=np.int32)

    def _stretches(self) -> Tokens:
        size = self.rng.randint(4, 24)
        return self._again([self.rng.randrange(self.size) for _ in range(size)], 1)

    def _few(self) -> Tokens:
        """Sequences of a few different tokens: a match needs two or three."""
        few = [self.rng.randrange(self.size) for _ in range(self.rng.randint(6, 60))]
        size = self.rng.randint(8, 50)
        return self._again([self.words.pick(few) for _ in range(size)], 3)

    def _again(self, sequence: list[int], known: int) -> Tokens:
        """The sequence and parts of it; the first `known` tokens are not targets."""
        ids, targets = list(sequence), [0] * len(sequence)
        for _ in range(self.rng.randint(1, 3)):
            first = self.rng.randint(0, len(sequence) - known - 1)
            part = sequence[first : self.rng.randint(first + known, len(sequence))]
            ids += part
            targets += ([0] * known + [1] * len(part))[: len(part)]
        return ids, targets

    def _list(self) -> Tokens:
        """A list of words, then the list again from one of its words on."""
        gap, other = self.words.pick(GAPS), self.words.pick(GAPS)
        listed = [self._word() for _ in range(self.rng.randint(3, 8))]
        parts = [(part, 0) for word in listed for part in (word, gap)]
        for again in (gap, other)[: self.rng.randint(1, 2)]:
            first = self.rng.randrange(len(listed) - 1)
            for word in listed[first:]:
                parts += [(word, WORD_START), (again, 1)]
            start = len(parts) - 2 * len(listed[first:])
            parts[start : start + 2] = [(text, 0) for text, _ in parts[start:][:2]]
        return self._tokens(parts)

    def _pairs(self) -> Tokens:
        """Pairs of words, then some of the first words, each with its partner."""
        pairs = [(self._word(), self._value()) for _ in range(self.rng.randint(2, 5))]
        told, asked = self.words.pick(PAIRINGS), self.words.pick(PAIRINGS)
        parts = []
        for key, value in pairs:
            whole = (told[0], key, told[1], value, told[2])
            parts += [(part, 0) for part in whole]
        self.rng.shuffle(pairs)
        for key, value in pairs:
            parts += [(asked[0], 0), (key, 0), (asked[1], 0), (value, WORD_START)]
            parts.append((asked[2], 1))
        return self._tokens(parts)

    def _word(self) -> str:
        capital = self.words.chance(0.3)
        return self.words.syllables(capital=True) if capital else self.words.word()

    def _value(self) -> str:
        if self.words.chance(0.2):
            return str(self.words.number(4))
        return " ".join(self._word() for _ in range(self.words.pick([1, 1, 2, 3])))

    def _tokens(self, parts: list[tuple[str, int]]) -> Tokens:
        ids: list[int] = []
        targets: list[int] = []
        for text, target in parts:
            own = self.encode(text)
            ids += own
            inside = WORD_INSIDE if target == WORD_START else target
            targets += [target] + [inside] * (len(own) - 1)
        return ids, targets
