"""Rows of token ids to train on: documents as trees, packed side by side.

A row is an int32 array (5, length): ids, positions, document, branch, target.
Branch 0 is a document's start, seen by all its branches; positions go on from it.
"""

from collections.abc import Callable, Iterator

import numpy as np

from examples.demo_model.arithmetic import CARRY, PLACES, column_result, counting
from examples.demo_model.data import Author, Document, branch_pieces
from examples.demo_model.tokenizer import SPECIALS
from mlx_gptoss.harmony.render import Piece, Vocabulary

IDS, POSITIONS, DOCUMENT, BRANCH, TARGET = range(5)
PADDING = (0, 0, -1, 0, 0)
OPEN_ROWS = 24
GAPS = (" ", ", ", ",", "; ", " and ")
PAIRINGS = (  # before the first word, between the two, after the second
    ('"', '":"', '",'),
    (" ", " ", ","),
    (" ", ": ", ","),
    (" the ", " is ", " and"),
    (" ", " = ", ","),
    (" ", " is ", ","),
)
SHORT_START = 90  # tokens that may be written twice
SHUFFLED = 256  # rows gathered and shuffled before they are given out
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
    """Cut a document into trees of at most `length` tokens, the start in each."""
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
        """Add a document that has no branches and may run over the end."""
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
    """Give rows of `length` tokens for ever."""
    packer = Packer(length)
    while True:
        for start, branches in trees(author.document(), vocabulary, length):
            packer.place(start, branches)
        if len(packer.full) >= SHUFFLED:
            author.words.rng.shuffle(packer.full)
            yield from packer.full
            packer.full = []


class Packer:
    """Puts trees into rows; a tree with a short start may be shared by two rows."""

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
        """The fullest row that has room."""
        fitting = [row for row in self.open if row.fits(size)]
        return max(fitting, key=lambda row: len(row.columns[IDS]), default=None)


class Drills:
    """Rows of single columns of sums as the analysis works them, all 400 often."""

    def __init__(self, seed: int, vocabulary: Vocabulary) -> None:
        self.rng = np.random.default_rng(seed)
        self.encode = vocabulary.encode

    def rows(self, length: int) -> Iterator[np.ndarray]:
        while True:
            row = Row(length)
            while len(row.columns[IDS]) < length:
                columns = [self._column() for _ in range(int(self.rng.integers(2, 5)))]
                row.add_alone(
                    [token for ids, _ in columns for token in ids],
                    [target for _, targets in columns for target in targets],
                )
            yield np.array([column[:length] for column in row.columns], dtype=np.int32)

    def _column(self) -> Tokens:
        sign = "+-"[int(self.rng.integers(2))]
        x, y, carry = (int(self.rng.integers(high)) for high in (10, 10, 2))
        digit, next_carry = column_result(x, y, carry, sign)
        place = PLACES[int(self.rng.integers(len(PLACES)))]
        asked = f" {place} {x}{sign}{y}{sign}{carry} "
        worked = f"{counting(x, y, carry, sign)}={digit} {CARRY[sign]} {next_carry},"
        parts = [(asked, 0), (worked, 1)]
        ids: list[int] = []
        targets: list[int] = []
        for text, target in parts:
            own = self.encode(text)
            ids += own
            targets += [target] * len(own)
        return ids, targets


class Copies:
    """Rows to learn copying from, made of random tokens: without them nothing does.

    `plain` repeats stretches; `worded` writes words of random tokens between
    separators and repeats, or looks up, what stood beside a word.
    """

    def __init__(self, seed: int, vocabulary: Vocabulary, size: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.size = size - len(SPECIALS)
        self.gaps = [vocabulary.encode(gap) for gap in GAPS]
        self.pairings = [
            [vocabulary.encode(part) for part in pairing] for pairing in PAIRINGS
        ]

    def plain(self, length: int) -> Iterator[np.ndarray]:
        return self._rows(length, [self._stretches])

    def worded(self, length: int) -> Iterator[np.ndarray]:
        return self._rows(length, [self._stretches, self._list, self._pairs])

    def _rows(
        self, length: int, makers: list[Callable[[], Tokens]]
    ) -> Iterator[np.ndarray]:
        while True:
            row = Row(length)
            while len(row.columns[IDS]) < length:
                maker = makers[int(self.rng.integers(len(makers)))]
                row.add_alone(*maker())
            yield np.array([column[:length] for column in row.columns], dtype=np.int32)

    def _tokens(self, low: int, high: int) -> list[int]:
        return self.rng.integers(0, self.size, self.rng.integers(low, high)).tolist()

    def _stretches(self) -> Tokens:
        sequence = self._tokens(4, 24)
        ids, targets = list(sequence), [0] * len(sequence)
        for _ in range(int(self.rng.integers(1, 4))):
            first = int(self.rng.integers(0, len(sequence) - 2))
            count = int(self.rng.integers(2, len(sequence) - first + 1))
            ids += sequence[first : first + count]
            targets += [0] + [1] * (count - 1)
        return ids, targets

    def _list(self) -> Tokens:
        """A list of words, then the list again from one of them on."""
        gap = self.gaps[int(self.rng.integers(len(self.gaps)))]
        listed = [self._tokens(1, 4) for _ in range(int(self.rng.integers(3, 9)))]
        ids = [token for word in listed for token in word + gap]
        targets = [0] * len(ids)
        for _ in range(int(self.rng.integers(1, 3))):
            first = int(self.rng.integers(0, len(listed) - 1))
            again = [token for word in listed[first:] for token in word + gap]
            known = len(listed[first])
            ids += again
            targets += [0] * known + [1] * (len(again) - known)
        return ids, targets

    def _pairs(self) -> Tokens:
        """Words in pairs, then some of the first words, each with its partner."""
        count = int(self.rng.integers(2, 6))
        pairs = [(self._tokens(1, 4), self._tokens(1, 4)) for _ in range(count)]
        told, asked = (
            self.pairings[int(self.rng.integers(len(self.pairings)))] for _ in range(2)
        )
        ids = [
            t for key, value in pairs for t in told[0] + key + told[1] + value + told[2]
        ]
        targets = [0] * len(ids)
        for number in self.rng.permutation(count):
            key, value = pairs[int(number)]
            ids += asked[0] + key + asked[1] + value + asked[2]
            targets += [0] * (len(asked[0]) + 1) + [1] * (len(key) - 1)
            targets += [1] * (len(asked[1]) + len(value) + len(asked[2]))
        return ids, targets
