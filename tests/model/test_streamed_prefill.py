"""Long prompts with few slots: while a group of experts computes, the next is read.

The reads of a group start before the previous group is computed, and are waited for
after it.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.expert_records import expert_records
from mlx_gptoss.checkpoint.load import load_parameters
from mlx_gptoss.model.adapters.experts import ExpertUpdates
from mlx_gptoss.model.device import on_gpu
from mlx_gptoss.model.experts.reader import ExpertReader, PendingReads, ReadRange
from mlx_gptoss.model.experts.streamed import StreamedExperts
from tests.support.streaming import SMALL, resident, write

E, TOKENS, LAYER = SMALL["num_local_experts"], 40, 1
PATH = f"model.layers.{LAYER}.mlp.experts"
READ, WAITED, COMPUTED = "read", "waited", "computed"


class WatchedReads:
    """Reads in flight; records when they have been waited for."""

    def __init__(
        self, reading: PendingReads, events: list[tuple[str, set[int]]]
    ) -> None:
        self._reading, self._events = reading, events
        self.nbytes = reading.nbytes

    def wait(self) -> float:
        taken = self._reading.wait()
        self._events.append((WAITED, set()))
        return taken


class WatchedReader(ExpertReader):
    """Records which experts are requested."""

    def __init__(self, files: list[Path], events: list[tuple[str, set[int]]]) -> None:
        super().__init__(files)
        self._events = events

    def start(self, ranges: Sequence[ReadRange]) -> PendingReads:
        asked = {int(run.name.split()[1]) for run in ranges}  # "expert 3 of `...`"
        self._events.append((READ, asked))
        return WatchedReads(super().start(ranges), self._events)  # pyright: ignore


class WatchedExperts(StreamedExperts):
    """Records which experts compute."""

    events: list[tuple[str, set[int]]]

    def _apply_group(
        self,
        x: mx.array,
        experts: np.ndarray,
        updates: ExpertUpdates | None,
        *,
        one_by_one: bool,
    ) -> mx.array:
        y = super()._apply_group(x, experts, updates, one_by_one=one_by_one)
        mx.eval(y)
        self.events.append((COMPUTED, set(experts.tolist())))
        return y


def watched(checkpoint: Checkpoint, slots: int) -> WatchedExperts:
    events: list[tuple[str, set[int]]] = []
    records = expert_records(checkpoint)[LAYER]
    layer = WatchedExperts(
        checkpoint.config,
        checkpoint.structure,
        PATH,
        slots=slots,
        records=records,
        reader=WatchedReader(records.files, events),
    )
    layer.events = events
    biases = load_parameters(
        checkpoint,
        dtype=mx.float32,
        select=lambda x: x.name.startswith(PATH) and x.name.endswith(".bias"),
    )
    named = [(name.removeprefix(PATH + "."), x) for name, x in biases.items()]
    layer.load_weights(named)
    layer.eval()
    return layer


def every_expert(k: int) -> mx.array:
    """Return expert indices (TOKENS, k) that use every expert."""
    rows = [[(n + step) % E for step in range(k)] for n in range(TOKENS)]
    return mx.array(rows, mx.uint32)


@pytest.mark.parametrize("slots", [4, 6])
def test_the_next_group_is_read_while_one_computes(slots: int, tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    layer = watched(checkpoint, slots)
    config = checkpoint.config
    draw = np.random.default_rng(2)
    x = mx.array(draw.standard_normal((TOKENS, config.hidden_size)), mx.float32)
    expert_indices = every_expert(config.num_experts_per_tok)
    expert_weights = mx.full(expert_indices.shape, 1 / expert_indices.shape[1])
    y = layer(x, expert_indices, expert_weights)
    groups = [asked for what, asked in layer.events if what == READ]
    assert set().union(*groups) == set(range(E))
    assert all(len(group) <= slots // 2 for group in groups)
    # Every group but the first is asked for before the one before it has computed,
    # and waited for afterwards: two banks, one filling while the other is in use.
    for before, group in pairwise(groups):
        asked = layer.events.index((READ, group))
        computed = layer.events.index((COMPUTED, before))
        own = layer.events.index((COMPUTED, group))
        waits = [n for n, (what, _) in enumerate(layer.events) if what == WAITED]
        assert asked < computed < own
        assert any(computed < n < own for n in waits)
    if not on_gpu():
        plain = resident(checkpoint).model.layers[LAYER].mlp.experts
        assert mx.array_equal(y, plain(x, expert_indices, expert_weights))


def test_who_is_here_already_computes_first(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    layer = watched(checkpoint, 4)
    layer.load({5, 7})
    layer.events.clear()
    x = mx.zeros((TOKENS, checkpoint.config.hidden_size))
    expert_indices = every_expert(checkpoint.config.num_experts_per_tok)
    mx.eval(layer(x, expert_indices, mx.ones(expert_indices.shape)))
    computed = [experts for what, experts in layer.events if what == COMPUTED]
    assert computed[0] == {5, 7}
    assert not any({5, 7} & asked for what, asked in layer.events if what == READ)
