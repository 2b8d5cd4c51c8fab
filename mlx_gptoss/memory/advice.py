"""Raise MemoryBudgetError for plans that do not fit, with a remedy."""

import shlex

from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.plan import HYBRID, RESIDENT, Plan
from mlx_gptoss.memory.sizes import OFFERED_RECIPES, recipe_bytes
from mlx_gptoss.memory.units import format_bytes

# Bytes left to macOS when `iogpu.wired_limit_mb` is raised.
SYSTEM_RESERVE = 3 * 2**30


def require_fit(plan: Plan, config: ModelConfig, model: str) -> None:
    """Raise MemoryBudgetError unless the plan fits, naming what would."""
    if plan.mode != RESIDENT and not plan.slots:
        raise MemoryBudgetError(_too_few_slots(plan, config, model))
    if plan.fits:
        return
    budget = plan.budget
    raise MemoryBudgetError(
        f"`{model}` needs {format_bytes(plan.total_bytes)} "
        f"({format_bytes(plan.weight_bytes)} of weights, {_adapters(plan)}"
        f"{format_bytes(plan.kv_bytes)} for {plan.context:,} tokens, "
        f"{format_bytes(plan.scratch_bytes)} to work in), but there are "
        f"{format_bytes(budget.bytes)} ({budget.source}): "
        f"{_advice(plan, config, model)}"
    )


def require_adapter_fit(plan: Plan, adapter: str) -> None:
    """Raise MemoryBudgetError unless a plan fits that counts one more adapter."""
    if plan.fits:
        return
    budget = plan.budget
    raise MemoryBudgetError(
        f"the adapter `{adapter}` does not fit: with it the adapters take "
        f"{format_bytes(plan.adapter_bytes)} beside a model of "
        f"{format_bytes(plan.total_bytes - plan.adapter_bytes)}, and there are "
        f"{format_bytes(budget.bytes)} ({budget.source}): load fewer adapters, use a "
        "shorter `--context` or more memory"
    )


def _adapters(plan: Plan) -> str:
    size = plan.adapter_bytes
    return f"{format_bytes(size)} of adapters, " if size else ""


def _too_few_slots(plan: Plan, config: ModelConfig, model: str) -> str:
    """Explain why not even the experts of one token fit."""
    k, layers = config.num_experts_per_tok, config.num_hidden_layers
    left = plan.budget.bytes - plan.total_bytes
    slots = max(0, left) // (layers * plan.record_bytes)
    least = plan.total_bytes + k * layers * plan.record_bytes
    if plan.mode == HYBRID:
        least += config.num_local_experts * plan.record_bytes
    return (
        f"`{model}` needs at least {format_bytes(least)}: "
        f"{format_bytes(plan.weight_bytes)} of weights beside the experts, "
        f"{_adapters(plan)}{format_bytes(plan.kv_bytes)} for {plan.context:,} tokens, "
        f"{format_bytes(plan.scratch_bytes)} to work in, "
        f"{format_bytes(plan.headroom_bytes)} kept free, and the {k} experts of a "
        f"token in each of {layers} layers ({k} x {layers} x "
        f"{format_bytes(plan.record_bytes)} = "
        f"{format_bytes(k * layers * plan.record_bytes)}); there are "
        f"{format_bytes(plan.budget.bytes)} ({plan.budget.source}), room for {slots} "
        f"experts a layer: {_less(plan, config, model, least)}"
    )


def _less(plan: Plan, config: ModelConfig, model: str, least: int) -> str:
    """Suggest a recipe with fewer bits for the other weights of a streamed model."""
    sizes = {
        recipe: recipe_bytes(config, recipe, float_bytes=plan.float_bytes)
        for recipe in OFFERED_RECIPES
    }
    for recipe, size in sizes.items():
        saved = plan.whole_bytes - size
        if saved > 0 and least - saved <= plan.budget.bytes:
            return f"{_convert(model, recipe)} makes one that runs"
    return "use a smaller model, a shorter `--context` or more memory"


def _advice(plan: Plan, config: ModelConfig, model: str) -> str:
    around = plan.total_bytes - plan.weight_bytes
    sizes = {
        recipe: recipe_bytes(config, recipe, float_bytes=plan.float_bytes)
        for recipe in OFFERED_RECIPES
    }
    smaller = {r: size for r, size in sizes.items() if size < plan.weight_bytes}
    listing = ", ".join(f"{r} {format_bytes(size)}" for r, size in smaller.items())
    budget = plan.budget
    for recipe, size in smaller.items():
        if size + around <= budget.bytes:
            return f"{_convert(model, recipe)} makes one that fits ({listing})"
    raised = budget.total - SYSTEM_RESERVE
    for recipe, size in smaller.items():
        if budget.metal and size + around <= raised:
            limit = -(-(size + around) // 2**20)
            return (
                f"{_convert(model, recipe)} fits ({listing}) once the GPU may use "
                f"more: `sudo sysctl iogpu.wired_limit_mb={limit}`"
            )
    least = min(smaller.values(), default=plan.weight_bytes) + around
    known = f" ({listing})" if listing else ""
    if plan.refusal and smaller:
        return (
            f"{_convert(model, list(smaller)[-1])} makes one whose experts can be read "
            "from disk as they are needed"
        )
    return (
        f"no recipe fits{known}; it takes {format_bytes(least)}, "
        "so let it read experts from disk as they are needed (`--experts auto`), or "
        "use a smaller model, a shorter `--context` or more memory"
    )


def _convert(model: str, recipe: str) -> str:
    target = f"{model.rstrip('/').rsplit('/', 1)[-1]}-{recipe}"
    words = ["mlx-gptoss", "convert", model, target, "--recipe", recipe]
    return f"`{shlex.join(words)}`"
