"""Build the steps of single tensors, from a checkpoint by a recipe into a layout.

Reads no weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import LAYER_NUMBER, Layout
from mlx_gptoss_convert.plan.recipe import Recipe
from mlx_gptoss_convert.read.source import SourceTensor
from mlx_gptoss_convert.steps.codecs import AFFINE_FLOATS
from mlx_gptoss_convert.steps.gguf import Reencode
from mlx_gptoss_convert.steps.merged import merged_rows
from mlx_gptoss_convert.steps.rearrange import Copy
from mlx_gptoss_convert.steps.step import OutputTensor, TensorStep

SCALE_DTYPES = {"affine": AFFINE_FLOATS, "mxfp4": "U8"}  # of tensors packed here
AFTER_LAYERS = 1 << 30  # sorts tensors outside the layers last


@dataclass
class StepBuilder:
    """Builds steps from a checkpoint by a recipe into a layout.

    Collects `quantization`, keyed by module path as in `config.json` of the result.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    layout: Layout
    quantization: dict[str, Quantization] = field(default_factory=dict)
    keeps_dense: bool = False  # dense experts, instead of encoding them

    def has(self, name: str) -> bool:
        return name in self.checkpoint.tensors

    def stored(self, name: str) -> SourceTensor:
        """Return a tensor of the source by its canonical name."""
        return SourceTensor.from_checkpoint(name, self.checkpoint.tensors[name])

    def setting_of(self, path: str) -> Quantization | None:
        return self.checkpoint.structure.quantization.get(path)

    def copy(self, name: str) -> TensorStep:
        """Copy a tensor with its dtype and shape.

        A merged weight gets the dtype of the model's floats.
        """
        stored = self.stored(name)
        dtype = kept_dtype(stored)
        if dtype != stored.dtype:
            output = self.output(name, dtype, stored.shape)
            return Reencode((stored,), (output,), dtype)
        return Copy((stored,), (self.output(name, stored.dtype, stored.shape),))

    def output(self, name: str, dtype: str, shape: tuple[int, ...]) -> OutputTensor:
        dtype = "U8" if dtype == "F8_E8M0" else dtype  # OpenAI's dtype of scales
        return OutputTensor(self.layout.stored_name(name), dtype, shape)


def kept_dtype(stored: SourceTensor) -> str:
    """Return the dtype a float tensor is kept in: its own, if it was not computed."""
    merged = merged_rows(stored)
    return stored.dtype if merged is None else merged.float_dtype


def copy_steps(
    builder: StepBuilder, path: str, kinds: tuple[str, ...]
) -> Iterator[TensorStep]:
    for kind in kinds:
        if builder.has(f"{path}.{kind}"):
            yield builder.copy(f"{path}.{kind}")


def layer_of(name: str) -> int:
    found = LAYER_NUMBER.search(name)
    return AFTER_LAYERS if found is None else int(found[1])
