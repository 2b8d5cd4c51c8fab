"""Which plan makes which output.

Knows the names of the outputs; decides nothing itself.
"""

from mlx_gptoss_convert.gguf_output import make_gguf_plan
from mlx_gptoss_convert.hf_output import make_hf_plan
from mlx_gptoss_convert.opening import Opened
from mlx_gptoss_convert.plan import Plan, make_plan
from mlx_gptoss_convert.recipe import Recipe


def plan_output(
    opened: Opened,
    recipe: Recipe,
    *,
    to: str = "mlx",
    experts: str = "packed",
    pre: str | None = None,
) -> Plan:
    """Plan the conversion of an opened source to "mlx", "hf" or "gguf".

    `experts` counts for MLX only, `pre` (see `gguf_tokenizer`) for GGUF only.
    """
    if to == "gguf":
        return make_gguf_plan(opened.checkpoint, recipe, files=opened.files, pre=pre)
    if to == "hf":
        return make_hf_plan(opened.checkpoint, recipe, files=opened.files)
    return make_plan(opened.checkpoint, recipe, experts=experts, files=opened.files)
