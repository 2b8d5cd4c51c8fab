"""Where a checkpoint keeps the experts of each layer, for reading them one by one."""

from mlx_gptoss.checkpoint.opening import Checkpoint
from mlx_gptoss.checkpoint.parameters import BYTE, WORD
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.experts.records import Records, Stack
from mlx_gptoss.layout import EXPERTS, LAYER_NUMBER


def expert_records(checkpoint: Checkpoint) -> dict[int, Records]:
    """Find the stacks of every layer.

    Raises ConfigError where experts do not lie in the files as they lie in memory:
    only MXFP4 does, in either layout.
    """
    count = checkpoint.config.num_local_experts
    stacks: dict[int, dict[str, Stack]] = {}
    for parameter in checkpoint.parameters:
        path, _, kind = parameter.name.rpartition(".")
        if parameter.part != EXPERTS or kind == "bias":
            continue
        if parameter.form not in (WORD, BYTE):
            raise ConfigError(
                f"the experts of `{checkpoint.folder}` are not MXFP4, and others are "
                "not read from disk as they are needed: convert them with "
                "`mlx-gptoss convert`, or use `--experts resident`"
            )
        (source,) = parameter.sources
        found = LAYER_NUMBER.search(parameter.name)
        assert found is not None, f"{parameter.name=}"
        name = f"{path.rpartition('.')[2]}.{kind}"
        stack = Stack(source.name, source.file, source.offset, source.nbytes // count)
        stacks.setdefault(int(found[1]), {})[name] = stack
    return {layer: Records(layer, count, found) for layer, found in stacks.items()}
