"""The automaton of legal answers as arrays, for masks computed on the device.

The NumPy table is exact and compact; the device table needs few operations per decode
step. Dimensions: S states, C token classes, V vocabulary.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gptoss.harmony.constrain.automaton import Automaton

ILLEGAL = -1  # a target
UNNAMED, TEXT = 0, 1  # classes of tokens that have no edges of their own
LEGAL_FLOOR = -1e30  # so that a legal token is sampled before any illegal one


@dataclass(frozen=True)
class AutomatonTable:
    """An automaton as arrays: `targets` (S, C) int16 or int32, `classes` (V,) int32.

    `targets[state, classes[token]]` is the next state, or ILLEGAL.
    """

    targets: np.ndarray
    classes: np.ndarray


class DeviceTable:
    """An AutomatonTable on the device.

    A state is the offset of its row in the flat table `rows`, whose entries are such
    offsets: the next state is one gather away.
    """

    def __init__(self, table: AutomatonTable) -> None:
        self._width = table.targets.shape[1]
        self._table = table
        self._texts: dict[int, mx.array] = {}
        targets = table.targets.astype(np.int32)
        rows = np.where(targets < 0, ILLEGAL, targets * self._width)
        self.rows = mx.array(rows.reshape(-1))
        self.classes = mx.array(table.classes)  # (V,)
        self.first = mx.array(0, mx.int32)
        self.least = mx.array(LEGAL_FLOOR, mx.float32)
        self.never = mx.array(-mx.inf, mx.float32)

    def text_mask(self, state: int) -> mx.array:
        """Return the mask (V,) bool of the legal tokens in a text state."""
        if state not in self._texts:
            legal = self._table.targets[state] >= 0
            self._texts[state] = mx.array(legal[self._table.classes])
        return self._texts[state]

    def row(self, state: int) -> mx.array:
        """Return the row offset () int32 of a state."""
        return mx.array(state * self._width, mx.int32)


def build_table(automaton: Automaton, text: np.ndarray) -> AutomatonTable:
    """Build the table of an automaton; `text` (V,) bool marks the text tokens.

    Tokens with edges of their own get a class each; the others share UNNAMED or TEXT.
    """
    named = sorted({token for edges in automaton.edges for token in edges})
    classes = np.where(text, TEXT, UNNAMED).astype(np.int32)
    class_of = {token: number for number, token in enumerate(named, TEXT + 1)}
    classes[named] = list(class_of.values())
    shape = len(automaton.states), TEXT + 1 + len(named)
    small = shape[0] <= np.iinfo(np.int16).max
    targets = np.full(shape, ILLEGAL, np.int16 if small else np.int32)
    columns = np.flatnonzero(np.r_[False, True, text[named]])  # of text tokens
    for state, place in enumerate(automaton.states):
        if place.kind in ("text", "grammar"):
            targets[state, columns] = state
        elif place.kind == "done":  # tokens sampled past the end are dropped
            targets[state] = state
        for token, target in automaton.edges[state].items():
            targets[state, class_of[token]] = target
    return AutomatonTable(targets, classes)
