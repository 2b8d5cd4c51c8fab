"""Rows of batched arrays, by reference.

A decode step computes one array for all its rows, and the next step mostly wants the
same rows in the same order. So a sequence keeps a `Row`, not a slice: a batch that
stays together is used as it is, without an operation per row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx


class Row(NamedTuple):
    """Row `number` of `batch` (B, ...), which may not be computed yet."""

    batch: mx.array
    number: int


def select_rows(batch: mx.array, order: Sequence[int]) -> mx.array:
    """Return rows of `batch` (B, ...) by number; no operation if they are all of it."""
    if list(order) == list(range(batch.shape[0])):
        return batch
    return mx.take(batch, mx.array(list(order)), axis=0)


def gather_rows(rows: Sequence[Row]) -> mx.array:
    """Return the rows as one array (n, ...).

    No operation if they are one whole batch in order, one if they come from one batch.
    """
    batch = rows[0].batch
    if all(row.batch is batch for row in rows):
        return select_rows(batch, [row.number for row in rows])
    sources = {id(row.batch): row.batch for row in rows}
    starts, count = {}, 0
    for name, source in sources.items():
        starts[name] = count
        count += source.shape[0]
    order = [starts[id(row.batch)] + row.number for row in rows]
    return select_rows(mx.concatenate(list(sources.values())), order)
