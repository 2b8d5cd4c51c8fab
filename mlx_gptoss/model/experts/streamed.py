"""Experts of which S are in memory; the others are read from the checkpoint's files.

    experts(x, expert_indices, expert_weights)  # bit-equal to resident experts

One token, or a few: read what is missing into the slots least recently used, and go
on as if all experts were there. Many tokens that choose more than S experts: expert by
expert, those that are here first, then the others in groups; while a group computes,
the next one is read into the slots of the one before. In steady state nothing is
allocated but the results.

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
from mlx_gptoss.model.device import use_gpu_paths
from mlx_gptoss.model.experts.pool import PooledProjection
from mlx_gptoss.model.experts.reader import ExpertReader, PendingReads, ReadRange
from mlx_gptoss.model.experts.records import ExpertRecords
from mlx_gptoss.model.experts.resident import SORT_MIN_ROWS, Experts, Projection
from mlx_gptoss.model.experts.slots import Slots
from mlx_gptoss.model.experts.statistics import LayerStatistics

# Up to so many tokens a result may wait to be evaluated (decoding, batches of it); of
# more it would hold too much memory back.
LAZY_MAX_TOKENS = 32


class PendingLoad:
    """Experts on their way into slots."""

    def __init__(
        self, experts: list[int], slots: list[int], reading: PendingReads
    ) -> None:
        self.experts = experts
        self.slots = slots
        self.reading = reading


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
        self.target_slots = slots  # may be changed at any time; obeyed at the next call
        self.statistics = LayerStatistics()

    @property
    def slots(self) -> int:
        """How many experts can be here."""
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
            stored=self._records.dtypes(name),
            dtype=self._dtype,
            in_place=self._in_place,
        )

    def __call__(
        self, x: mx.array, expert_indices: mx.array, expert_weights: mx.array
    ) -> mx.array:
        """Return the weighted sum of each token's experts: (N, M)."""
        # A slot is never overwritten while it may be read: the device reads slots only
        # for results of this layer, and all of those are done after this line. While
        # decoding they are anyway, since this choice follows from the former token.
        # Waiting for the last result covers whatever else was begun before (batches,
        # results nobody has asked for yet), for there is one in waiting at most.
        started = time.perf_counter()
        mx.eval(expert_indices, self._pending_results())
        synced = time.perf_counter()
        self._before(self)
        if self.target_slots != self._slots.count:
            self._resize()
        needed = distinct_experts(expert_indices)
        if len(needed) <= self._slots.count:
            waited = self._load(needed)
            y = self.apply_experts(x, expert_indices)
        else:
            y, waited = self._apply_in_groups(x, expert_indices)
        y = (expert_weights[:, None] @ y).squeeze(1)
        if len(x) > LAZY_MAX_TOKENS:
            mx.eval(y)
        self._last = y
        self.statistics.count_call(
            synced - started, waited, time.perf_counter() - synced - waited
        )
        return y

    def before_each_call(self, before: "Callable[[StreamedExperts], None]") -> None:
        """Have `before` called at every call, when nothing reads the slots."""
        self._before = before

    def _resize(self) -> None:
        """Take the slots that are wanted; this layer's pools exist twice meanwhile."""
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
        """Have all of these in slots; return the seconds waited for the disk.

        Nothing may be computing with this layer.
        """
        return self._load(needed)

    def _load(self, needed: Collection[int]) -> float:
        """Have all of these in slots; return the seconds waited for the disk."""
        missing = self._slots.touch(needed)
        self.statistics.count_experts(len(needed), len(missing))
        return self._finish_load(self._start_load(missing, needed) if missing else None)

    def _start_load(self, missing: list[int], keep: Collection[int]) -> PendingLoad:
        """Start reading experts into slots, taken from any others but `keep`."""
        slots = self._slots.allocate(len(missing), keep)
        runs = [
            ReadRange(
                f"expert {e} of `{stack.name}`",
                stack.file,
                at,
                self._slot_memory(name, slot),
            )
            for e, slot in zip(missing, slots, strict=True)
            for name, stack, at in self._records.byte_ranges(e)
        ]
        return PendingLoad(missing, slots, self._reader.start(runs))

    def _slot_memory(self, name: str, slot: int) -> memoryview:
        """Return the place of `down_proj.scales` and the like in a slot."""
        projection, _, kind = name.partition(".")
        return self._pooled[projection].pools[kind].slot_memory(slot)

    def _finish_load(self, filling: PendingLoad | None) -> float:
        """Wait until experts are read; only then are they said to be there."""
        if filling is None:
            return 0.0
        started = time.perf_counter()
        try:
            filling.reading.wait()
        except BaseException:
            self._slots.release(filling.slots)
            raise
        for projection in self._pooled.values():
            for pool in projection.pools.values():
                pool.commit(filling.slots)
        self._slots.assign(filling.experts, filling.slots)
        waited = time.perf_counter() - started
        self.statistics.count_read(filling.reading.nbytes)
        return waited

    @property
    def _pooled(self) -> dict[str, PooledProjection]:
        return self.projections  # pyright: ignore[reportReturnType]

    def _apply_in_groups(
        self, x: mx.array, expert_indices: mx.array
    ) -> tuple[mx.array, float]:
        """Send more experts than there are slots: -> (N, T, M), seconds of waiting.

        Evaluates group by group, before the slots of one are given to the next.
        """
        N, T = expert_indices.shape
        choice = np.array(expert_indices).ravel()
        groups = self._plan_groups(choice)
        rank = np.empty(self.count, np.int64)
        rank[list(chain.from_iterable(groups))] = np.arange(sum(map(len, groups)))
        order = np.argsort(rank[choice], kind="stable")
        rows, ordered = x[mx.array(order // T)], choice[order]  # (R, M), (R,)
        ends = np.cumsum([np.isin(ordered, group).sum() for group in groups])
        whole = self.dequantizes(choice.size, x.dtype)
        parts: list[mx.array] = []
        waited = 0.0
        later = set(ordered.tolist())  # not computed yet: whoever is here stays
        coming = self._prefetch(groups[0], later)
        for n, group in enumerate(groups):
            waited += self._finish_load(coming)
            following = groups[n + 1] if n + 1 < len(groups) else []
            beside = len(group) + len(following) <= self._slots.count
            coming = self._prefetch(following, later) if beside else None
            start, end = (ends[n - 1] if n else 0), ends[n]
            try:
                y = self._apply_group(rows[start:end], ordered[start:end], whole=whole)
                mx.eval(y)
            except BaseException:
                self._finish_load(coming)  # threads still write into its slots
                raise
            parts.append(y)
            later.difference_update(group)
            if not beside:
                coming = self._prefetch(following, later)
        back = mx.array(np.argsort(order))
        return mx.concatenate(parts)[back].reshape(N, T, -1), waited

    def _plan_groups(self, choice: np.ndarray) -> list[list[int]]:
        """Order the expert_indices experts and cut them into groups of half the slots.

        Those that are here come first. The others come in the order of their last
        use, so that what stays at the end is what the next tokens may want.
        """
        used = {int(expert): row for row, expert in enumerate(choice)}
        here = [e for e in self._slots.cached if e in used]
        absent = sorted(used.keys() - set(here), key=lambda e: used[e])
        self.statistics.count_experts(len(used), len(absent))
        ordered, size = here + absent, max(1, self._slots.count // 2)
        return [ordered[n : n + size] for n in range(0, len(ordered), size)]

    def _prefetch(self, group: Sequence[int], keep: set[int]) -> PendingLoad | None:
        missing = self._slots.touch(group)
        return self._start_load(missing, keep) if missing else None

    def _apply_group(
        self, x: mx.array, experts: np.ndarray, *, whole: bool
    ) -> mx.array:
        """Send rows x (R, M), ordered by expert, through experts (R,) -> (R, M)."""
        if whole:  # as `apply_one_by_one` does, so that the sums are the same
            cuts = np.flatnonzero(np.diff(experts)) + 1
            bounds = [0, *cuts.tolist(), len(experts)]
            parts = []
            for start, end in pairwise(bounds):
                parts.append(self.apply_one(x[start:end], int(experts[start])))
                mx.eval(parts[-1])
            return mx.concatenate(parts)
        expert_indices = mx.array(experts.astype(np.uint32))
        if use_gpu_paths() and len(experts) >= SORT_MIN_ROWS:
            return self.apply_sorted(x, expert_indices[:, None]).squeeze(1)
        return self.apply_gathered(x, expert_indices[:, None]).squeeze(1)


def distinct_experts(expert_indices: mx.array) -> list[int]:
    """List the experts in (N, T) once each, in order, so that runs can be repeated."""
    rows = cast("list[list[int]]", expert_indices.tolist())
    return sorted(set(chain.from_iterable(rows)))


def require_slots(slots: int, config: ModelConfig, layer: int) -> None:
    """Refuse fewer slots than one token needs. Raises MemoryBudgetError."""
    least = config.num_experts_per_tok
    if slots < least:
        raise MemoryBudgetError(
            f"layer {layer} has {slots} slots for experts, and every token needs "
            f"{least} of them at once: give the model more memory"
        )
