"""The automaton of legal answers as compact arrays, ready for masks on the device.

Most states of a header allow one token each, and many allow the same ones. So legality
is stored once per set of legal tokens, a `Pattern`, and transitions once per edge. 400
tools need some hundred kilobytes. Dimensions: S states, N cells, V vocabulary.
"""

import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.rows import Row
from mlx_gptoss.harmony.constrain.automaton import Automaton

ILLEGAL, STAY, FIRST_EDGE = 0, 1, 2  # choices: what a token does in a state


class Free(IntEnum):
    """The tokens without an edge that are legal in a state, and lead back to it."""

    NONE = 0
    TEXT = 1
    EVERY = 2


class Pattern(NamedTuple):
    """The legal tokens of a state: free ones, and those with an edge, in order."""

    free: Free
    edges: tuple[int, ...]

    def legal(self, text: np.ndarray) -> np.ndarray:
        """Return the mask (V,) bool of the legal tokens; `text` (V,) of text tokens."""
        legal = free_tokens(self.free, text)
        legal[list(self.edges)] = True
        return legal


def free_tokens(free: Free, text: np.ndarray) -> np.ndarray:
    """Return a new mask of the free tokens, of which `text` marks those of text."""
    if free is Free.TEXT:
        return text.copy()
    return np.full_like(text, free is Free.EVERY)


@dataclass(frozen=True, eq=False)
class TextTokens:
    """The text tokens of a vocabulary as a mask (V,) bool; equal only to itself."""

    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class AutomatonTable:
    """An automaton for one vocabulary, whose text tokens are `text`.

    A state has one cell per choice, and is known by the first of them: `starts` (S,).
    `targets` (N,) are the states that the choices lead to, `pattern_of` (N,) the number
    of the state's pattern, in each of its cells.
    """

    text: TextTokens
    patterns: tuple[Pattern, ...]
    starts: np.ndarray
    targets: np.ndarray
    pattern_of: np.ndarray

    def start(self, state: int) -> int:
        """Return the first cell of a state of the automaton."""
        return int(self.starts[state])

    def pattern(self, start: int) -> Pattern:
        """Return the legal tokens of the state whose first cell is `start`."""
        return self.patterns[self.pattern_of[start]]


class AutomatonMask(NamedTuple):
    """The legal tokens of a state of `table`, known by its first cell.

    With `follow` the sampler computes the state after the sampled token; the state may
    itself be one that was computed so and has not arrived.
    """

    table: AutomatonTable
    state: int | Row
    follow: bool


TokenMask = np.ndarray | AutomatonMask | None  # (V,) bool; None if all are legal


class TokenTables:
    """The tables of one tokenizer, each built once. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, TextTokens] = {}  # by size of the vocabulary
        self._tables: WeakKeyDictionary[Automaton, AutomatonTable] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def table(self, automaton: Automaton, size: int) -> AutomatonTable:
        """Return the table of an automaton for a vocabulary of `size`."""
        with self._lock:
            text = self._texts.get(size)
            if text is None:
                ids = np.array(self._tokenizer.text_ids)
                text = self._texts[size] = TextTokens(np.isin(np.arange(size), ids))
            found = self._tables.get(automaton)
            if found is None or found.text is not text:
                found = self._tables[automaton] = build_table(automaton, text)
            return found


def build_table(automaton: Automaton, text: TextTokens) -> AutomatonTable:
    """Build the table of an automaton for a vocabulary with these text tokens."""
    patterns: dict[Pattern, int] = {}
    pattern_of: list[int] = []
    targets: list[list[int]] = []  # states, by state and choice
    for state, place in enumerate(automaton.states):
        edges = dict(sorted(automaton.edges[state].items()))
        free = Free.TEXT if place.kind in ("text", "grammar") else Free.NONE
        if place.kind == "done":  # tokens sampled past the end are dropped
            free, edges = Free.EVERY, {}
        pattern = Pattern(free, tuple(edges))
        pattern_of.append(patterns.setdefault(pattern, len(patterns)))
        targets.append([state, state, *edges.values()])
    sizes = np.array([len(cells) for cells in targets])
    starts = np.cumsum(sizes) - sizes
    return AutomatonTable(
        text,
        tuple(patterns),
        starts.astype(np.int32),
        starts[np.concatenate(targets)].astype(np.int32),
        np.repeat(pattern_of, sizes).astype(np.int32),
    )
