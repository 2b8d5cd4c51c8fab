"""Experts of which S are in memory; others are read from the checkpoint's files.

    experts(x, expert_indices, expert_weights)  # bit-equal to resident experts

Decode, or few tokens: read missing experts into the least recently used slots, then
compute as if all experts were resident. Prefill that needs more than S experts: process
them in groups, cached experts first; while one group computes, the next is prefetched
into the slots of the group before. In steady state only results are allocated.

Dimensions as in `resident`: N tokens, T experts per token, E experts, R = N * T rows.
"""

import time
from collections.abc import Callable, Collection, Sequence
from itertools import chain, pairwise
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig, Quantization
from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.adapters.experts import ExpertUpdates
from mlx_gptoss.model.device import use_gpu_paths
from mlx_gptoss.model.experts.pool import PooledProjection
from mlx_gptoss.model.experts.projection import Projection
from mlx_gptoss.model.experts.reader import ExpertReader, PendingReads, ReadRange
from mlx_gptoss.model.experts.records import ExpertRecords
from mlx_gptoss.model.experts.resident import SORT_MIN_ROWS, Experts
from mlx_gptoss.model.experts.slots import Slots
from mlx_gptoss.model.experts.statistics import LayerStatistics

# Results of up to so many tokens (decode steps) stay lazy; larger ones are evaluated,
# because they would keep too much memory alive.
LAZY_MAX_TOKENS = 32


class PendingLoad:
    """Experts being read into slots."""

    def __init__(
        self, experts: list[int], slots: list[int], reads: PendingReads
    ) -> None:
        self.experts = experts
        self.slots = slots
        self.reads = reads


class StreamedExperts(Experts):
    """The experts of one layer in S slots, filled from `records` by `reader`."""

    def __init__(
        self,
        config: ModelConfig,
        structure: Structure,
        path: str,
        *,
        slots: int,
        records: ExpertRecords,
        reader: ExpertReader,
        dtype: mx.Dtype = mx.float32,
        in_place: bool = True,
    ) -> None:
        self._slots = Slots(slots, config.num_local_experts, layer=records.layer)
        self._dtype = dtype
        self._in_place = in_place
        require_slots(slots, config, records.layer)
        self._records = records
        super().__init__(config, structure, path)
        self._reader = reader
        self._last: mx.array | None = None
        self._before: Callable[[StreamedExperts], None] = lambda _: None
        self.min_slots = config.num_experts_per_tok
        self.target_slots = slots  # may change at any time; applied at the next call
        self.statistics = LayerStatistics()

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self._slots.count

    @property
    def record_bytes(self) -> int:
        return self._records.record_bytes

    def make_projection(
        self, name: str, inputs: int, outputs: int, quantization: Quantization | None
    ) -> Projection:
        assert quantization is not None, "dense experts are not streamed"
        return PooledProjection(
            self._slots,
            inputs,
            outputs,
            quantization,
            stored_dtypes=self._records.dtypes(name),
            dtype=self._dtype,
            in_place=self._in_place,
        )

    def __call__(
        self,
        x: mx.array,
        expert_indices: mx.array,
        expert_weights: mx.array,
        updates: ExpertUpdates | None = None,
    ) -> mx.array:
        """Return the weighted sum of each token's experts: (N, M)."""
        # A slot must not be overwritten while the device may read it. It reads slots
        # only for results of this layer, and this line waits for all of those. In a
        # decode step they are done anyway, since these indices depend on the previous
        # token. At most one result is pending, so waiting for the last one covers
        # everything started before (batches, results not evaluated yet).
        started = time.perf_counter()
        mx.eval(expert_indices, self._pending_results())
        synced = time.perf_counter()
        self._before(self)
        if self.target_slots != self._slots.count:
            self._resize()
        needed = distinct_experts(expert_indices)
        if len(needed) <= self._slots.count:
            waited = self.load(needed)
            y = self.apply_experts(x, expert_indices, updates)
        else:
            y, waited = self._apply_in_groups(x, expert_indices, updates)
        y = (expert_weights[:, None] @ y).squeeze(1)
        if len(x) > LAZY_MAX_TOKENS:
            mx.eval(y)
        self._last = y
        self.statistics.count_call(
            synced - started, waited, time.perf_counter() - synced - waited
        )
        return y

    def before_each_call(self, before: "Callable[[StreamedExperts], None]") -> None:
        """Call `before` at the start of each call, when nothing reads the slots."""
        self._before = before

    def _resize(self) -> None:
        """Resize to `target_slots`; this layer's pools exist twice meanwhile."""
        kept = self._slots.resize(self.target_slots)
        for projection in self._pooled.values():
            projection.resize(kept, self.target_slots)
        mx.clear_cache()

    def _pending_results(self) -> list[mx.array]:
        return [] if self._last is None else [self._last]

    @property
    def cached(self) -> list[int]:
        """The experts that are in slots, the least recently used first."""
        return self._slots.cached

    def load(self, needed: Collection[int]) -> float:
        """Load experts into slots; return the seconds waited for the disk.

        Nothing may be computing with this layer.
        """
        missing = self._slots.touch(needed)
        self.statistics.count_experts(len(needed), len(missing))
        return self._finish_load(self._start_load(missing, needed) if missing else None)

    def _start_load(self, missing: list[int], keep: Collection[int]) -> PendingLoad:
        """Start reading experts into slots, evicting any experts except `keep`."""
        slots = self._slots.allocate(len(missing), keep)
        ranges = [
            ReadRange(
                f"expert {e} of `{stack.name}`",
                stack.file,
                at,
                self._slot_memory(name, slot),
            )
            for e, slot in zip(missing, slots, strict=True)
            for name, stack, at in self._records.byte_ranges(e)
        ]
        return PendingLoad(missing, slots, self._reader.start(ranges))

    def _slot_memory(self, name: str, slot: int) -> memoryview:
        """Return the memory of a parameter such as `down_proj.scales` in a slot."""
        projection, _, kind = name.partition(".")
        return self._pooled[projection].pools[kind].slot_memory(slot)

    def _finish_load(self, pending: PendingLoad | None) -> float:
        """Wait for the reads, then assign the slots; return the seconds waited."""
        if pending is None:
            return 0.0
        started = time.perf_counter()
        try:
            pending.reads.wait()
        except BaseException:
            self._slots.release(pending.slots)
            raise
        for projection in self._pooled.values():
            for pool in projection.pools.values():
                pool.commit(pending.slots)
        self._slots.assign(pending.experts, pending.slots)
        waited = time.perf_counter() - started
        self.statistics.count_read(pending.reads.nbytes)
        return waited

    @property
    def _pooled(self) -> dict[str, PooledProjection]:
        return self.projections  # pyright: ignore[reportReturnType]

    def _apply_in_groups(
        self, x: mx.array, expert_indices: mx.array, updates: ExpertUpdates | None
    ) -> tuple[mx.array, float]:
        """Apply more experts than there are slots: -> (N, T, M), seconds waited.

        Evaluates each group before its slots are reused for the next.
        """
        N, T = expert_indices.shape
        experts = np.array(expert_indices).ravel()  # (R,)
        groups = self._plan_groups(experts)
        rank = np.empty(self.count, np.int64)
        rank[list(chain.from_iterable(groups))] = np.arange(sum(map(len, groups)))
        order = np.argsort(rank[experts], kind="stable")
        tokens, ordered = order // T, experts[order]  # (R,)
        rows = x[mx.array(tokens)]  # (R, M)
        ends = np.cumsum([np.isin(ordered, group).sum() for group in groups])
        one_by_one = self.runs_one_by_one(experts.size, x.dtype)
        parts: list[mx.array] = []
        waited = 0.0
        later = set(ordered.tolist())  # not computed yet: must not be evicted
        pending = self._prefetch(groups[0], later)
        for n, group in enumerate(groups):
            waited += self._finish_load(pending)
            following = groups[n + 1] if n + 1 < len(groups) else []
            both_fit = len(group) + len(following) <= self._slots.count
            pending = self._prefetch(following, later) if both_fit else None
            start, end = (ends[n - 1] if n else 0), ends[n]
            try:
                y = self._apply_group(
                    rows[start:end],
                    ordered[start:end],
                    updates and updates.of(tokens[start:end]),
                    one_by_one=one_by_one,
                )
                mx.eval(y)
            except BaseException:
                self._finish_load(pending)  # its threads still write into slots
                raise
            parts.append(y)
            later.difference_update(group)
            if not both_fit:
                pending = self._prefetch(following, later)
        inverse = mx.array(np.argsort(order))
        return mx.concatenate(parts)[inverse].reshape(N, T, -1), waited

    def _plan_groups(self, experts: np.ndarray) -> list[list[int]]:
        """Order the needed experts and split them into groups of half the slots.

        Cached experts come first, the others in the order of their last use, so that
        the experts left in the slots are the most recent ones.
        """
        last_use = {int(expert): row for row, expert in enumerate(experts)}
        cached = [e for e in self._slots.cached if e in last_use]
        missing = sorted(last_use.keys() - set(cached), key=lambda e: last_use[e])
        self.statistics.count_experts(len(last_use), len(missing))
        ordered, size = cached + missing, max(1, self._slots.count // 2)
        return [ordered[n : n + size] for n in range(0, len(ordered), size)]

    def _prefetch(self, group: Sequence[int], keep: set[int]) -> PendingLoad | None:
        missing = self._slots.touch(group)
        return self._start_load(missing, keep) if missing else None

    def _apply_group(
        self,
        x: mx.array,
        experts: np.ndarray,
        updates: ExpertUpdates | None,
        *,
        one_by_one: bool,
    ) -> mx.array:
        """Apply experts (R,), sorted, to the rows of x (R, M) -> (R, M)."""
        if one_by_one:  # like `apply_one_by_one`, so that the sums are bit-equal
            cuts = np.flatnonzero(np.diff(experts)) + 1
            bounds = [0, *cuts.tolist(), len(experts)]
            parts = []
            for start, end in pairwise(bounds):
                expert = int(experts[start])
                own = updates and updates.one_expert(expert, np.arange(start, end))
                y = self.apply_on_host(np.asarray(x[start:end]), expert, own)
                parts.append(mx.array(y))
            return mx.concatenate(parts)
        expert_indices = mx.array(experts.astype(np.uint32))[:, None]
        pairs = updates and updates.pairs(expert_indices)
        if use_gpu_paths() and len(experts) >= SORT_MIN_ROWS:
            return self.apply_sorted(x, expert_indices, pairs).squeeze(1)
        return self.apply_gathered(x, expert_indices, pairs).squeeze(1)


def distinct_experts(expert_indices: mx.array) -> list[int]:
    """Return the distinct experts in (N, T), sorted so that runs are repeatable."""
    rows = cast("list[list[int]]", expert_indices.tolist())
    return sorted(set(chain.from_iterable(rows)))


def require_slots(slots: int, config: ModelConfig, layer: int) -> None:
    """Raise MemoryBudgetError for fewer slots than one token needs."""
    least = config.num_experts_per_tok
    if slots < least:
        raise MemoryBudgetError(
            f"layer {layer} has {slots} slots for experts, and every token needs "
            f"{least} of them at once: give the model more memory"
        )
