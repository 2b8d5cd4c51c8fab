"""All automata of a batch as one table on the device: a mask is one gather.

Each table that joins appends its cells; a batch of rows with different automata, tools
and schemas is then a batch of cells. Tokens that no automaton tells apart share a
class, so that a row of the table has some hundred columns, not one per token.
Dimensions: B rows, C token classes, P patterns, N cells, V vocabulary.
"""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.token_table import (
    FIRST_EDGE,
    ILLEGAL,
    STAY,
    AutomatonTable,
    Pattern,
    TextTokens,
    free_tokens,
)

MAX_BYTES = 16 << 20  # of the pattern rows; then tables outside the batch are dropped
FREE_CELLS = 2  # the first state of the table allows every token


class MaskTable:
    """The tables of recent batches, joined. Belongs to one thread.

    States are numbered within their own table, so those that a step computed stay valid
    when the tables are joined anew; `base` is the number to add.
    """

    def __init__(self) -> None:
        self._bases: dict[AutomatonTable, int] = {}
        self._classes = self._choices = self._pattern_of = self._targets = mx.array(0)

    def join(self, tables: Iterable[AutomatonTable]) -> None:
        """Make the table contain `tables`."""
        needed = dict.fromkeys(tables)
        if all(one in self._bases for one in needed):
            return
        self._build([*self._bases, *(t for t in needed if t not in self._bases)])
        if self._choices.nbytes > MAX_BYTES and len(self._bases) > len(needed):
            self._build(list(needed))

    def base(self, table: AutomatonTable) -> int:
        """Return the number to add to states of a table that has joined."""
        return self._bases[table]

    def choices(self, states: mx.array) -> mx.array:
        """Return the choice of each token class (B, C) in states (B,)."""
        patterns = mx.take(self._pattern_of, states)
        return mx.take(self._choices, patterns, axis=0)

    def legal(self, choices: mx.array) -> mx.array:
        """Return the masks (B, V) bool for choices (B, C)."""
        return mx.take_along_axis(choices > 0, self._classes[None], axis=1)

    def next_states(
        self, states: mx.array, choices: mx.array, tokens: mx.array
    ) -> mx.array:
        """Return the states (B,) after tokens (B,), each within its own table."""
        classes = mx.take(self._classes, tokens)[:, None]
        choice = mx.take_along_axis(choices, classes, axis=1)[:, 0]
        return mx.take(self._targets, states + choice)

    def _build(self, tables: list[AutomatonTable]) -> None:
        """Join the tables; the cells of each keep their order."""
        classes, tokens = token_classes(tables)
        choices = [np.full(len(tokens), STAY, np.int32)]
        patterns, targets = ([np.zeros(FREE_CELLS, np.int32)] for _ in range(2))
        numbers: dict[tuple[TextTokens, Pattern], int] = {}
        self._bases, base = {}, FREE_CELLS
        for table in tables:
            found = []
            for pattern in table.patterns:
                if (table.text, pattern) not in numbers:
                    numbers[table.text, pattern] = len(choices)
                    is_text = table.text.mask[tokens]
                    choices.append(pattern_choices(pattern, classes, is_text))
                found.append(numbers[table.text, pattern])
            patterns.append(np.array(found, np.int32)[table.pattern_of])
            targets.append(table.targets)
            self._bases[table], base = base, base + len(table.targets)
        self._classes = mx.array(classes)
        self._choices = mx.array(np.stack(choices))
        self._pattern_of = mx.array(np.concatenate(patterns))
        self._targets = mx.array(np.concatenate(targets))


def pattern_choices(
    pattern: Pattern, classes: np.ndarray, is_text: np.ndarray
) -> np.ndarray:
    """Return the choice that each token class is in a pattern, as int32 (C,).

    `classes` (V,) are those of the tokens; `is_text` (C,) says which are of text.
    """
    free = free_tokens(pattern.free, is_text)
    choices = np.where(free, STAY, ILLEGAL).astype(np.int32)
    edges = np.arange(len(pattern.edges))
    choices[classes[list(pattern.edges)]] = FIRST_EDGE + edges
    return choices


def token_classes(tables: list[AutomatonTable]) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each token (V,) int32, and a token of each class (C,).

    Tokens that have an edge in any table are classes of their own. The others are
    told apart only by which tables count them as text.
    """
    kinds = np.zeros(len(tables[0].text.mask), np.int32)
    for text in dict.fromkeys(table.text for table in tables):
        kinds = _renumber(2 * kinds + text.mask)
    patterns = {pattern for table in tables for pattern in table.patterns}
    named = sorted({token for pattern in patterns for token in pattern.edges})
    kinds[named] = kinds.max() + 1 + np.arange(len(named))
    classes = _renumber(kinds)
    tokens = np.zeros(classes.max() + 1, np.int32)
    tokens[classes] = np.arange(len(classes))
    return classes, tokens


def _renumber(kinds: np.ndarray) -> np.ndarray:
    """Number the kinds that occur from 0 on; as int32."""
    numbers = np.cumsum(np.bincount(kinds) > 0) - 1
    return numbers[kinds].astype(np.int32)
