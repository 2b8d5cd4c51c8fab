"""Where a checkpoint keeps the experts of each layer, for reading them one by one."""

from mlx_gptoss.checkpoint.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.parameters import FLOAT
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.layout import EXPERTS, LAYER_NUMBER
from mlx_gptoss.model.experts.records import ExpertRecords, StackedTensor


def expert_records(checkpoint: Checkpoint) -> dict[int, ExpertRecords]:
    """Find the stacks of every layer.

    Raises ConfigError, saying why, where experts cannot be read one by one.
    """
    count = checkpoint.config.num_local_experts
    stacks: dict[int, dict[str, StackedTensor]] = {}
    for parameter in checkpoint.parameters:
        path, _, kind = parameter.name.rpartition(".")
        if parameter.part != EXPERTS or kind == "bias":
            continue
        if kind == "weight" and parameter.form == FLOAT:
            raise ConfigError(
                f"the experts of `{checkpoint.folder}` are not quantized, and only "
                "those that are can be read from disk as they are needed: convert "
                "them with `mlx-gptoss convert`, or use `--experts resident`"
            )
        (source,) = parameter.sources
        found = LAYER_NUMBER.search(parameter.name)
        assert found is not None, f"{parameter.name=}"
        name = f"{path.rpartition('.')[2]}.{kind}"
        one = source.nbytes // count
        stack = StackedTensor(
            source.name, source.file, source.offset, one, source.dtype
        )
        stacks.setdefault(int(found[1]), {})[name] = stack
    records = {
        layer: ExpertRecords(layer, count, found) for layer, found in stacks.items()
    }
    if len({each.record_bytes for each in records.values()}) > 1:
        raise ConfigError(
            f"the experts of `{checkpoint.folder}` are quantized in another way from "
            "layer to layer, and only those of one size can be read from disk as they "
            "are needed: use `--experts resident`"
        )
    return records


def explain_refusal(checkpoint: Checkpoint) -> str | None:
    """Say why the experts cannot be read one by one; None: they can."""
    try:
        expert_records(checkpoint)
    except ConfigError as error:
        return str(error)
    return None


def expert_bytes_in_memory(checkpoint: Checkpoint, float_bytes: int) -> int:
    """Bytes of one expert without the biases of its rows, on average over layers."""
    total = sum(
        parameter.nbytes(float_bytes)
        for parameter in checkpoint.parameters
        if parameter.part == EXPERTS and not parameter.name.endswith(".bias")
    )
    config = checkpoint.config
    return total // (config.num_hidden_layers * config.num_local_experts)
