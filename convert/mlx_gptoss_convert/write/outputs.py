"""Choose the planner of an output format."""

from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.plan.plan import ConversionPlan, make_plan
from mlx_gptoss_convert.plan.recipe import Recipe
from mlx_gptoss_convert.plan.shards import SHARD_BYTES
from mlx_gptoss_convert.read.checkpoint import ConversionSource
from mlx_gptoss_convert.write.gguf import make_gguf_plan
from mlx_gptoss_convert.write.hf import make_hf_plan


def plan_output(
    opened: ConversionSource,
    recipe: Recipe,
    *,
    to: str = "mlx",
    experts: str = "packed",
    keeps_dense: bool = False,
    pre: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ConversionPlan:
    """Plan the conversion of an opened source to "mlx", "hf" or "gguf".

    `experts` applies to MLX only, and `pre` (see `gguf_tokenizer`) to GGUF only, which
    is always one file, whatever `shard_bytes` is. `keeps_dense` leaves dense experts
    as they are; a GGUF has none.
    """
    checkpoint, files = opened.checkpoint, opened.files
    if checkpoint.config.is_classifier and to != "mlx":
        raise ConversionError(
            "a token classifier is converted to an MLX folder: leave out `--to`"
        )
    if to == "gguf":
        return make_gguf_plan(checkpoint, recipe, files=files, pre=pre)
    if to == "hf":
        return make_hf_plan(
            checkpoint,
            recipe,
            keeps_dense=keeps_dense,
            files=files,
            shard_bytes=shard_bytes,
        )
    return make_plan(
        checkpoint,
        recipe,
        experts=experts,
        keeps_dense=keeps_dense,
        files=files,
        shard_bytes=shard_bytes,
    )
