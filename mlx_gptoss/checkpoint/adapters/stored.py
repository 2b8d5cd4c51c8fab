"""An opened adapter, whose updates are read one matrix at a time.

An update changes a weight W (out, in) to W + (a @ b).T (LoRA, arXiv 2106.09685).

Dimensions: r rank, E experts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mlx_gptoss.checkpoint.adapters.digest import config_digest, updates_digest
from mlx_gptoss.checkpoint.adapters.factors import StoredPair, read_update
from mlx_gptoss.checkpoint.adapters.targets import target_matrices
from mlx_gptoss.checkpoint.adapters.update import WeightUpdate
from mlx_gptoss.format.config import ModelConfig

CHAT_FORMAT, HARMONY = "chat_format", "harmony"  # in the metadata of its file


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter with valid headers: names, shapes and scales are those of the model.

    `pairs` has, for each module path without `.weight`, the tensors that make its
    update. Values are checked when they are read.
    """

    folder: Path
    layout: str  # "peft" or "mlx-lm"
    base: str | None  # the model it was trained on, as it was named
    config: ModelConfig = field(repr=False)  # of the model it was opened for
    pairs: Mapping[str, tuple[StoredPair, ...]] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)  # of the file
    scale: float = 1.0  # multiplies all updates, beside the adapter's own scale

    @property
    def paths(self) -> tuple[str, ...]:
        """The module paths it updates, in the order of the model."""
        return tuple(path for path in target_matrices(self.config) if path in self)

    @property
    def teaches_harmony(self) -> bool:
        """Whether its file says that it was trained on conversations in Harmony."""
        return self.metadata.get(CHAT_FORMAT) == HARMONY

    def __contains__(self, path: str) -> bool:
        return path in self.pairs

    def read(self, path: str) -> WeightUpdate:
        """Read one update. Raises CheckpointError for values that are not finite."""
        return read_update(
            self.pairs[path], target_matrices(self.config)[path].shape, self.scale
        )

    def updates(self) -> Iterator[tuple[str, WeightUpdate]]:
        """Read all updates, one after another, in the order of the model."""
        for path in self.paths:
            yield path, self.read(path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the updates, scale included, and of the model's config.

        Reads everything.
        """
        ordered = ((path, self.read(path)) for path in sorted(self.pairs))
        return updates_digest(ordered, config_digest(self.config))

    @property
    def rank(self) -> int:
        """The largest rank of its updates."""
        return max(sum(x.rank for x in pairs) for pairs in self.pairs.values())

    @property
    def parameters(self) -> int:
        """The number of stored values."""
        pairs = [pair for found in self.pairs.values() for pair in found]
        return sum(pair.a.count + pair.b.count for pair in pairs)
