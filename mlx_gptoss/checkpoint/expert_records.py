"""Locate the experts of each layer in a checkpoint, for streaming them."""

from collections import defaultdict

from mlx_gptoss.checkpoint.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.parameters import FLOAT
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.layout import EXPERTS, LAYER_NUMBER
from mlx_gptoss.model.experts.records import ExpertRecords, StackedTensor


def expert_records(checkpoint: Checkpoint) -> dict[int, ExpertRecords]:
    """Return the stacks of experts of every layer.

    Raises ConfigError if the experts cannot be streamed.
    """
    stacks: dict[int, dict[str, StackedTensor]] = {}
    for parameter in checkpoint.parameters:
        path, _, kind = parameter.name.rpartition(".")
        if parameter.part != EXPERTS or kind == "bias":
            continue
        if kind == "weight" and parameter.form == FLOAT:
            raise ConfigError(
                f"the experts of `{checkpoint.folder}` are not quantized, and only "
                "quantized experts can be streamed from disk: convert them with "
                "`mlx-gptoss convert`, or use `--experts resident`"
            )
        if len(parameter.sources) != 1:
            raise ConfigError(
                f"`{checkpoint.folder}` has one tensor per expert, and only stacks of "
                "experts can be streamed from disk: convert them with `mlx-gptoss "
                "convert`, or use `--experts resident`"
            )
        (source,) = parameter.sources
        found = LAYER_NUMBER.search(parameter.name)
        assert found is not None, f"{parameter.name=}"
        count = checkpoint.config.experts_in(int(found[1]))
        name = f"{path.rpartition('.')[2]}.{kind}"
        one = source.nbytes // count
        stack = StackedTensor(
            source.name, source.file, source.offset, one, source.dtype
        )
        stacks.setdefault(int(found[1]), {})[name] = stack
    return {
        layer: ExpertRecords(layer, checkpoint.config.experts_in(layer), found)
        for layer, found in stacks.items()
    }


def explain_refusal(checkpoint: Checkpoint) -> str | None:
    """Explain why the experts cannot be streamed, or return None."""
    try:
        expert_records(checkpoint)
    except ConfigError as error:
        return str(error)
    return None


def expert_bytes_in_memory(checkpoint: Checkpoint, float_bytes: int) -> int:
    """Bytes of one expert without its biases, of the layer with the largest."""
    total: dict[int, int] = defaultdict(int)
    for parameter in checkpoint.parameters:
        if parameter.part == EXPERTS and not parameter.name.endswith(".bias"):
            found = LAYER_NUMBER.search(parameter.name)
            assert found is not None, f"{parameter.name=}"
            total[int(found[1])] += parameter.nbytes(float_bytes)
    config = checkpoint.config
    return max(size // config.experts_in(layer) for layer, size in total.items())
