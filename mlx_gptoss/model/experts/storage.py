"""Apply a placement to a model: which layers are resident, and the slots of others.

    storage = stream_experts(model, placement, records)
    storage.statistics(); storage.close()

A planner decides the `Placement`; nothing here knows of budgets.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.experts.pressure import SHRINK, STAY, MemoryPressure
from mlx_gptoss.model.experts.reader import ExpertReader
from mlx_gptoss.model.experts.records import ExpertRecords
from mlx_gptoss.model.experts.statistics import ExpertStatistics, collect_statistics
from mlx_gptoss.model.experts.streamed import StreamedExperts
from mlx_gptoss.model.gpt_oss import GptOss

SHRINK_FACTOR = 3 / 4  # of its slots, kept when memory is short


@dataclass(frozen=True)
class Placement:
    """Slots of each streamed layer by number; the other layers are resident."""

    slots: Mapping[int, int]

    @property
    def streamed(self) -> bool:
        return bool(self.slots)

    def is_pooled(self, parameter: str) -> bool:
        """Return whether a parameter is kept in a slot pool instead of the model."""
        parts = parameter.split(".")
        if parts[:2] != ["model", "layers"] or "experts" not in parts:
            return False
        return int(parts[2]) in self.slots and parts[-1] != "bias"


class ExpertStorage:
    """The streamed layers of a model and the reader that fills them."""

    def __init__(
        self,
        layers: Mapping[int, StreamedExperts],
        reader: ExpertReader,
        resident_layers: int,
        pressure: MemoryPressure | None = None,
    ) -> None:
        self.layers = dict(layers)
        self.reader = reader
        self._resident_layers = resident_layers
        self._planned = {layer: x.slots for layer, x in layers.items()}
        self._pressure = pressure or MemoryPressure()
        self._round: list[int] = []  # layers still to be resized
        self._direction = STAY
        self.cache_limit_before: int | None = None
        for layer in layers.values():
            layer.before_each_call(self._resize_next_layer)

    def statistics(self) -> ExpertStatistics:
        """Return a copy of the counters so far."""
        return collect_statistics(
            [(n, x.slots, x.statistics) for n, x in self.layers.items()],
            self._resident_layers,
        )

    def _resize_next_layer(self, layer: StreamedExperts) -> None:
        """Resize this layer if it is the next one in the current round."""
        if not self._round:
            self._start_round()
        if not self._round or self.layers.get(self._round[-1]) is not layer:
            return
        number = self._round.pop()
        factor = SHRINK_FACTOR if self._direction == SHRINK else 1 / SHRINK_FACTOR
        wanted = math.ceil(layer.slots * factor)
        layer.target_slots = max(layer.min_slots, min(wanted, self._planned[number]))
        if not self._round:
            self._pressure.finish_round()

    def _start_round(self) -> None:
        self._direction = self._pressure.direction()
        if self._direction == STAY:
            return
        self._round = [
            number
            for number, layer in sorted(self.layers.items(), reverse=True)
            if self._direction == SHRINK or layer.slots < self._planned[number]
        ]

    def close(self) -> None:
        """Stop the threads, close the files, release the pools; idempotent."""
        self.layers.clear()
        self.reader.close()
        if self.cache_limit_before is not None:
            mx.set_cache_limit(self.cache_limit_before)
            self.cache_limit_before = None

    def limit_cache(self, limit: int) -> None:
        """Limit the freed memory that MLX keeps for reuse, until this is closed."""
        self.cache_limit_before = mx.set_cache_limit(limit)


def stream_experts(
    model: GptOss,
    structure: Structure,
    placement: Placement,
    records: Mapping[int, ExpertRecords],
    *,
    dtype: mx.Dtype = mx.float32,
    reader: ExpertReader | None = None,
    in_place: bool = True,
    pressure: MemoryPressure | None = None,
) -> ExpertStorage:
    """Replace the experts of the placement's layers by streamed ones with empty pools.

    Their biases remain parameters of the model and must be loaded; other floats are
    kept in memory as `dtype`.
    """
    used = [records[layer] for layer in placement.slots]
    reader = reader or ExpertReader(path for record in used for path in record.files)
    layers: dict[int, StreamedExperts] = {}
    for layer, slots in placement.slots.items():
        config = model.config.of_layer(layer)
        layers[layer] = StreamedExperts(
            config,
            structure,
            f"model.layers.{layer}.mlp.experts",
            slots=min(slots, config.num_local_experts),
            records=records[layer],
            reader=reader,
            dtype=dtype,
            in_place=in_place,
        )
        layers[layer].eval()
        model.model.layers[layer].mlp.experts = layers[layer]
    resident_layers = model.config.num_hidden_layers - len(layers)
    return ExpertStorage(layers, reader, resident_layers, pressure)
