"""Experts of which S are in memory; the others are read from the checkpoint's files.

    experts(x, chosen, shares) -> y     # as `resident`, and equal to it bit for bit

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
from mlx_gptoss.model.experts.reader import Reader, Reading, Run
from mlx_gptoss.model.experts.records import Records
from mlx_gptoss.model.experts.resident import SORTED_ROWS, Experts, Projection
from mlx_gptoss.model.experts.slots import Slots
from mlx_gptoss.model.experts.statistics import LayerStatistics

# Up to so many tokens a result may wait to be evaluated (decoding, batches of it); of
# more it would hold too much memory back.
WAITING_TOKENS = 32


class Filling:
    """Experts on their way into slots."""

    def __init__(self, experts: list[int], slots: list[int], reading: Reading) -> None:
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
        records: Records,
        reader: Reader,
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
        self.least = config.num_experts_per_tok
        self.target = slots  # may be changed at any time; obeyed at the next call
        self.statistics = LayerStatistics()

    @property
    def slots(self) -> int:
        """How many experts can be here."""
        return self._slots.count

    @property
    def record_bytes(self) -> int:
        return self._records.record_bytes

    def projection(
        self, name: str, inputs: int, outputs: int, packing: Quantization | None
    ) -> Projection:
        assert packing is not None, "dense experts are not streamed"
        return PooledProjection(
            self._slots,
            inputs,
            outputs,
            packing,
            stored=self._records.dtypes(name),
            dtype=self._dtype,
            in_place=self._in_place,
        )

    def __call__(self, x: mx.array, chosen: mx.array, shares: mx.array) -> mx.array:
        """Send x (N, M) through experts (N, T), weighted by shares (N, T) -> (N, M)."""
        # A slot is never overwritten while it may be read: the device reads slots only
        # for results of this layer, and all of those are done after this line. While
        # decoding they are anyway, since this choice follows from the former token.
        # Waiting for the last result covers whatever else was begun before (batches,
        # results nobody has asked for yet), for there is one in waiting at most.
        started = time.perf_counter()
        mx.eval(chosen, self._waiting())
        synced = time.perf_counter()
        self._before(self)
        if self.target != self._slots.count:
            self._resize()
        needed = distinct(chosen)
        if len(needed) <= self._slots.count:
            waited = self._fill(needed)
            y = self.send(x, chosen)
        else:
            y, waited = self._by_expert(x, chosen)
        y = (shares[:, None] @ y).squeeze(1)
        if len(x) > WAITING_TOKENS:
            mx.eval(y)
        self._last = y
        self.statistics.count_call(
            synced - started, waited, time.perf_counter() - synced - waited
        )
        return y

    def watch(self, before: "Callable[[StreamedExperts], None]") -> None:
        """Have `before` called at every call, when nothing reads the slots."""
        self._before = before

    def _resize(self) -> None:
        """Take the slots that are wanted; this layer's pools exist twice meanwhile."""
        kept = self._slots.resize(self.target)
        for projection in self._pooled.values():
            projection.resize(kept, self.target)
        mx.clear_cache()

    def _waiting(self) -> list[mx.array]:
        return [] if self._last is None else [self._last]

    @property
    def held(self) -> list[int]:
        """The experts that are in slots, the least recently used first."""
        return self._slots.held

    def fill(self, needed: Collection[int]) -> float:
        """Have all of these in slots; return the seconds waited for the disk.

        Nothing may be computing with this layer.
        """
        return self._fill(needed)

    def _fill(self, needed: Collection[int]) -> float:
        """Have all of these in slots; return the seconds waited for the disk."""
        missing = self._slots.touch(needed)
        self.statistics.count_experts(len(needed), len(missing))
        return self._finish(self._begin(missing, needed) if missing else None)

    def _begin(self, missing: list[int], keep: Collection[int]) -> Filling:
        """Start reading experts into slots, taken from any others but `keep`."""
        slots = self._slots.make_room(len(missing), keep)
        runs = [
            Run(f"expert {e} of `{stack.name}`", stack.file, at, self._out(name, slot))
            for e, slot in zip(missing, slots, strict=True)
            for name, stack, at in self._records.runs(e)
        ]
        return Filling(missing, slots, self._reader.start(runs))

    def _out(self, name: str, slot: int) -> memoryview:
        """Return the place of `down_proj.scales` and the like in a slot."""
        projection, _, kind = name.partition(".")
        return self._pooled[projection].pools[kind].out(slot)

    def _finish(self, filling: Filling | None) -> float:
        """Wait until experts are read; only then are they said to be there."""
        if filling is None:
            return 0.0
        started = time.perf_counter()
        try:
            filling.reading.wait()
        except BaseException:
            self._slots.give_back(filling.slots)
            raise
        for projection in self._pooled.values():
            for pool in projection.pools.values():
                pool.commit(filling.slots)
        self._slots.put(filling.experts, filling.slots)
        waited = time.perf_counter() - started
        self.statistics.count_read(filling.reading.nbytes)
        return waited

    @property
    def _pooled(self) -> dict[str, PooledProjection]:
        return self.projections  # pyright: ignore[reportReturnType]

    def _by_expert(self, x: mx.array, chosen: mx.array) -> tuple[mx.array, float]:
        """Send more experts than there are slots: -> (N, T, M), seconds of waiting.

        Evaluates group by group, before the slots of one are given to the next.
        """
        N, T = chosen.shape
        choice = np.array(chosen).ravel()
        groups = self._groups(choice)
        rank = np.empty(self.count, np.int64)
        rank[list(chain.from_iterable(groups))] = np.arange(sum(map(len, groups)))
        order = np.argsort(rank[choice], kind="stable")
        rows, ordered = x[mx.array(order // T)], choice[order]  # (R, M), (R,)
        ends = np.cumsum([np.isin(ordered, group).sum() for group in groups])
        whole = self.decodes(choice.size, x.dtype)
        parts: list[mx.array] = []
        waited = 0.0
        later = set(ordered.tolist())  # not computed yet: whoever is here stays
        coming = self._bring(groups[0], later)
        for n, group in enumerate(groups):
            waited += self._finish(coming)
            following = groups[n + 1] if n + 1 < len(groups) else []
            beside = len(group) + len(following) <= self._slots.count
            coming = self._bring(following, later) if beside else None
            start, end = (ends[n - 1] if n else 0), ends[n]
            try:
                y = self._group(rows[start:end], ordered[start:end], whole=whole)
                mx.eval(y)
            except BaseException:
                self._finish(coming)  # threads still write into its slots
                raise
            parts.append(y)
            later.difference_update(group)
            if not beside:
                coming = self._bring(following, later)
        back = mx.array(np.argsort(order))
        return mx.concatenate(parts)[back].reshape(N, T, -1), waited

    def _groups(self, choice: np.ndarray) -> list[list[int]]:
        """Order the chosen experts and cut them into groups of half the slots.

        Those that are here come first. The others come in the order of their last
        use, so that what stays at the end is what the next tokens may want.
        """
        used = {int(expert): row for row, expert in enumerate(choice)}
        here = [e for e in self._slots.held if e in used]
        absent = sorted(used.keys() - set(here), key=lambda e: used[e])
        self.statistics.count_experts(len(used), len(absent))
        ordered, size = here + absent, max(1, self._slots.count // 2)
        return [ordered[n : n + size] for n in range(0, len(ordered), size)]

    def _bring(self, group: Sequence[int], keep: set[int]) -> Filling | None:
        missing = self._slots.touch(group)
        return self._begin(missing, keep) if missing else None

    def _group(self, x: mx.array, experts: np.ndarray, *, whole: bool) -> mx.array:
        """Send rows x (R, M), ordered by expert, through experts (R,) -> (R, M)."""
        if whole:  # as `one_by_one` does, so that the sums are the same
            cuts = np.flatnonzero(np.diff(experts)) + 1
            bounds = [0, *cuts.tolist(), len(experts)]
            parts = []
            for start, end in pairwise(bounds):
                parts.append(self.alone(x[start:end], int(experts[start])))
                mx.eval(parts[-1])
            return mx.concatenate(parts)
        chosen = mx.array(experts.astype(np.uint32))
        if use_gpu_paths() and len(experts) >= SORTED_ROWS:
            return self.sorted(x, chosen[:, None]).squeeze(1)
        return self.gathered(x, chosen[:, None]).squeeze(1)


def distinct(chosen: mx.array) -> list[int]:
    """List the experts in (N, T) once each, in order, so that runs can be repeated."""
    rows = cast("list[list[int]]", chosen.tolist())
    return sorted(set(chain.from_iterable(rows)))


def require_slots(slots: int, config: ModelConfig, layer: int) -> None:
    """Refuse fewer slots than one token needs. Raises MemoryBudgetError."""
    least = config.num_experts_per_tok
    if slots < least:
        raise MemoryBudgetError(
            f"layer {layer} has {slots} slots for experts, and every token needs "
            f"{least} of them at once: give the model more memory"
        )
