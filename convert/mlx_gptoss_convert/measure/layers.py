"""Models loaded in parts: one layer at a time, matrices in slices of rows.

`LayeredModel` is the interface that measurements use, `CheckpointModel` implements it
for a checkpoint. Knows checkpoints and layers; nothing of texts.

Dimensions: U ids, M hidden size.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_gptoss.checkpoint import Checkpoint, Parameter, load_parameters
from mlx_gptoss.checkpoint.adapters import StoredAdapter
from mlx_gptoss.format.layout import PACKED, matrices
from mlx_gptoss.model.adapters import Adapter, AdapterStack, LowRank
from mlx_gptoss.model.adapters.passes import ActiveAdapters, activate
from mlx_gptoss.model.gpt_oss import Block
from mlx_gptoss_convert.measure.matrices import MatrixReader
from mlx_gptoss_convert.read.source import TensorReader
from mlx_gptoss_convert.steps.merged import add_product

EMBEDDING, LM_HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm.weight"
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class LayeredModel(Protocol):
    """A model whose parts can be loaded one by one."""

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Return the embeddings of `ids` (U,), in ascending order: (U, M) float32."""
        ...

    def block(self, layer: int, teacher: Block) -> Block:
        """Load one layer, sharing what is equal with the teacher's."""
        ...

    def adapter(self, layer: int) -> ActiveAdapters | None:
        """Return what an adapter adds to one layer, None for nothing."""
        ...

    def norm(self) -> mx.array:
        """Return the final norm's weight (M,)."""
        ...

    def head(self) -> Iterator[np.ndarray]:
        """Yield slices (rows, M) of lm_head, of the same sizes for every model."""
        ...


class CheckpointModel:
    """A checkpoint whose layers are loaded one at a time, in float32.

    With `adapter`, its updates are applied to the layers as they are, unmerged.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        source: TensorReader,
        *,
        shared: Collection[str] = (),
        adapter: StoredAdapter | None = None,
    ) -> None:
        """`shared` are paths of experts with the same bytes as the teacher's."""
        self.checkpoint = checkpoint
        self.values = MatrixReader(checkpoint, source)
        self.shared = shared
        self.updates = adapter
        self.matrices = {x.path: x for x in matrices(checkpoint.config, PACKED)}

    def embed(self, ids: np.ndarray) -> np.ndarray:
        return gather_rows(self.rows(EMBEDDING), ids)

    def rows(self, path: str) -> Iterator[np.ndarray]:
        """Yield a matrix outside the experts in slices of float32 rows."""
        return self.values.rows(self.matrices[path])

    def block(self, layer: int, teacher: Block | None = None) -> Block:
        prefix = f"model.layers.{layer}."
        if any(prefix + path not in self.shared for path in EXPERTS):
            teacher = None

        def wanted(parameter: Parameter) -> bool:
            given = teacher is not None and ".mlp.experts." in parameter.name
            return parameter.name.startswith(prefix) and not given

        loaded = load_parameters(self.checkpoint, dtype=mx.float32, select=wanted)
        weights: list[tuple[str, Any]] = [
            (name.removeprefix(prefix), x) for name, x in loaded.items()
        ]
        block = Block(self.checkpoint.config, self.checkpoint.structure, layer)
        if teacher is not None:
            block.mlp.experts = teacher.mlp.experts
            experts = tree_flatten(teacher.mlp.experts.parameters())
            weights += [(f"mlp.experts.{name}", x) for name, x in experts]
        block.load_weights(weights, strict=True)
        block.eval()
        return block

    def adapter(self, layer: int) -> ActiveAdapters | None:
        if self.updates is None:
            return None
        prefix = f"model.layers.{layer}."
        own = {
            path: LowRank(mx.array(update.a), mx.array(update.b))
            for path in self.updates.paths
            if path.startswith(prefix) and (update := self.updates.read(path))
        }
        config, structure = self.checkpoint.config, self.checkpoint.structure
        stack = AdapterStack(config, [Adapter("", "", own)])
        return activate(stack.arrange(structure), [stack.slot("")])

    def norm(self) -> mx.array:
        return mx.array(self.values.floats(NORM))

    def head(self) -> Iterator[np.ndarray]:
        if self.updates is None or LM_HEAD not in self.updates:
            yield from self.rows(LM_HEAD)
            return
        update, first = self.updates.read(LM_HEAD), 0
        for rows in self.rows(LM_HEAD):
            merged = np.array(rows)
            part = update.b[:, first : first + len(rows)]
            add_product(merged, part.T, update.a.T)
            first += len(rows)
            yield merged

    def layer_bytes(self, layer: int) -> int:
        prefix = f"model.layers.{layer}."
        tensors = self.checkpoint.tensors.items()
        return sum(x.nbytes for name, x in tensors if name.startswith(prefix))


def gather_rows(slices: Iterable[np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Pick the rows `ids` (ascending) from slices of the rows of a matrix."""
    picked, first = [], 0
    for rows in slices:
        start, stop = np.searchsorted(ids, [first, first + len(rows)])
        picked.append(rows[ids[start:stop] - first])
        first += len(rows)
    return np.concatenate(picked)
