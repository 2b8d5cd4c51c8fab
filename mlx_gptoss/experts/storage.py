"""Put a placement into a model: which layers are resident, and the slots of others.

    storage = stream(model, placement, records)
    storage.statistics(); storage.close()

`Placement` is what a planner decides; nothing here knows of budgets.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_gptoss.experts.reader import Reader
from mlx_gptoss.experts.records import Records
from mlx_gptoss.experts.statistics import ExpertStatistics, gathered
from mlx_gptoss.experts.streamed import StreamedExperts
from mlx_gptoss.layout import Structure
from mlx_gptoss.model import GptOss


@dataclass(frozen=True)
class Placement:
    """Slots of every streamed layer by its number; the other layers are resident."""

    slots: Mapping[int, int]

    @property
    def streamed(self) -> bool:
        return bool(self.slots)

    def pools(self, parameter: str) -> bool:
        """Say whether a parameter of the model lies in a pool, not in the model."""
        parts = parameter.split(".")
        if parts[:2] != ["model", "layers"] or "experts" not in parts:
            return False
        return int(parts[2]) in self.slots and parts[-1] != "bias"


class Storage:
    """The streamed layers of a model and the reader that fills them."""

    def __init__(
        self, layers: Mapping[int, StreamedExperts], reader: Reader, whole: int
    ):
        self.layers = dict(layers)
        self.reader = reader
        self._resident_layers = whole

    def statistics(self) -> ExpertStatistics:
        """Copy the counts so far."""
        return gathered(
            [(n, x.slots, x.statistics) for n, x in self.layers.items()],
            self._resident_layers,
        )

    def close(self) -> None:
        """End the threads, close the files, let go of the pools."""
        self.layers.clear()
        self.reader.close()


def stream(
    model: GptOss,
    structure: Structure,
    placement: Placement,
    records: Mapping[int, Records],
    *,
    reader: Reader | None = None,
    in_place: bool = True,
) -> Storage:
    """Replace the experts of the placement's layers by streamed ones, with empty pools.

    Their biases are parameters of the model and still to be loaded.
    """
    used = [records[layer] for layer in placement.slots]
    reader = reader or Reader(path for record in used for path in record.files)
    layers: dict[int, StreamedExperts] = {}
    for layer, slots in placement.slots.items():
        layers[layer] = StreamedExperts(
            model.config,
            structure,
            f"model.layers.{layer}.mlp.experts",
            slots=slots,
            records=records[layer],
            reader=reader,
            in_place=in_place,
        )
        layers[layer].eval()
        model.model.layers[layer].mlp.experts = layers[layer]
    return Storage(layers, reader, model.config.num_hidden_layers - len(layers))
