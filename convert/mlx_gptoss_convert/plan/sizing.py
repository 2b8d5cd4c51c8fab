"""Find the recipe of least loss within a size.

Four groups of tensors in five widths make 625 recipes; sizes and losses are sums over
the groups, so all recipes are evaluated. Knows recipes and sizes of plans, not arrays.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import Budget, PlannedModel, estimate, format_bytes
from mlx_gptoss_convert.plan.plan import ConversionPlan
from mlx_gptoss_convert.plan.recipe import DENSE, KINDS, Recipe, affine, kind_of

Planner = Callable[[Recipe], ConversionPlan]
WIDTHS = (None, 8, 6, 5, 4)  # None: dense
# q, k and v of equal width are one matrix in memory, which is faster.
GROUPS = (("embed",), ("lm_head",), ("q", "k", "v"), ("o",))
LossTable = Mapping[str, Mapping[int | None, float]]  # loss by kind and width

# Relative rms error of a Gaussian row in groups of 64, by bits.
ERRORS = {None: 0.0, 8: 0.0053, 6: 0.021, 5: 0.042, 4: 0.085}
# Weight of each kind's error if nothing was measured. Other models suggest
# attention > lm_head > embedding.
SENSITIVITY = {"embed": 1.0, "lm_head": 2.0, "q": 4.0, "k": 4.0, "v": 4.0, "o": 4.0}

RECORD_BYTES = 400  # per tensor, in the index and the journal
# Share of a Mac's memory that macOS lets the GPU use by default.
GPU_SHARE = 0.74
FRONTIER_ROWS = 12


@dataclass(frozen=True)
class SizedRecipe:
    """A recipe with its size on disk and expected loss."""

    recipe: Recipe
    nbytes: int  # of the folder
    loss: float


@dataclass(frozen=True)
class SizeLimit:
    """The largest size allowed for the folder, and the reason in words."""

    nbytes: int
    why: str


@dataclass(frozen=True)
class SizeRequest:
    """The size options of the command line."""

    target_size: int | None = None  # bytes of the folder
    fit_memory: int | None = None  # bytes of memory of the Mac to run it on
    context: int | None = None  # tokens
    calibration: Path | None = None

    @property
    def is_set(self) -> bool:
        return self != SizeRequest()


@dataclass(frozen=True)
class RecipeChoice:
    """The chosen recipe, the frontier it is on, and the limit it meets."""

    frontier: Sequence[SizedRecipe]
    chosen: SizedRecipe
    limit: SizeLimit


def check_size_request(request: SizeRequest, *, to: str, recipe_given: bool) -> None:
    """Raise ConversionError for options that contradict each other."""
    if request.target_size is None and request.fit_memory is None:
        raise ConversionError(
            "`--calibration` and `--context` belong to `--target-size` and "
            "`--fit-memory`: give one of these"
        )
    if request.context is not None and request.fit_memory is None:
        raise ConversionError("`--context` belongs to `--fit-memory`: leave it out")
    if recipe_given:
        raise ConversionError(
            "`--target-size` and `--fit-memory` choose the recipe: leave `--recipe` out"
        )
    if to != "mlx":
        raise ConversionError(
            "`--target-size` and `--fit-memory` are for MLX folders: leave `--to` out"
        )


def find_recipe(
    plan_for: Planner, base: Recipe, config: ModelConfig, request: SizeRequest
) -> RecipeChoice:
    """Find the recipe of least loss within the requested size.

    Raises ConversionError if none fits or the calibration file is invalid.
    """
    table = loss_table(request.calibration)
    limits = []
    if request.target_size is not None:
        limits.append(SizeLimit(request.target_size, "the size asked for"))
    if request.fit_memory is not None:
        limits.append(memory_limit(config, request.fit_memory, request.context))
    limit = min(limits, key=lambda limit: limit.nbytes)
    recipes = frontier(size_recipes(plan_for, base, table))
    return RecipeChoice(recipes, choose(recipes, limit), limit)


def loss_table(measured: Path | None = None) -> LossTable:
    """Return the loss of every kind in every width: a prior, or measured values.

    `measured` is a JSON file `{"kl": {"embed": {"8": nats, ...}, ...}}`: the KL
    divergence with only that kind quantized. Raises ConversionError if it is invalid.
    """
    if measured is None:
        return {
            kind: {width: weight * ERRORS[width] ** 2 for width in WIDTHS}
            for kind, weight in SENSITIVITY.items()
        }
    try:
        raw = json.loads(measured.read_text())["kl"]
        table = {kind: {int(b): float(x) for b, x in raw[kind].items()} for kind in raw}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"`{measured}` is not a calibration: expected "
            '{"kl": {"embed": {"8": nats, ...}, ...}}'
        ) from error
    return {kind: fill_widths(table.get(kind, {}), kind, measured) for kind in KINDS}


def fill_widths(
    known: Mapping[int, float], kind: str, measured: Path
) -> Mapping[int | None, float]:
    """Estimate the widths not measured: loss is proportional to the squared error."""
    if not known or set(known) - set(WIDTHS):
        raise ConversionError(
            f"`{measured}` has for `{kind}` the widths {sorted(known)}: expected some "
            "of 4, 5, 6 and 8"
        )
    filled: dict[int | None, float] = {None: 0.0}
    for width in (8, 6, 5, 4):
        nearest = min(known, key=lambda bits: abs(bits - width))
        share = (ERRORS[width] / ERRORS[nearest]) ** 2
        filled[width] = max(known[nearest], 0.0) * share
    return filled


def size_recipes(
    plan_for: Planner, base: Recipe, table: LossTable
) -> list[SizedRecipe]:
    """Return size and loss of every recipe; `base` sets the experts."""
    plans = {width: plan_for(uniform(base, width)) for width in WIDTHS}
    sizes = {width: bytes_by_kind(plan) for width, plan in plans.items()}
    overhead = max(
        folder_bytes(plan) - sum(sizes[w].values()) for w, plan in plans.items()
    )
    # Tensors that the source stores in fewer bits are kept, and lose nothing more.
    costs = {
        kind: {
            width: (sizes[width][kind], table[kind][width])
            if sizes[width][kind] < sizes[None][kind]
            else (sizes[None][kind], 0.0)
            for width in WIDTHS
        }
        for kind in KINDS
    }
    recipes = []
    for widths in product(WIDTHS, repeat=len(GROUPS)):
        chosen = [
            costs[kind][width]
            for group, width in zip(GROUPS, widths, strict=True)
            for kind in group
        ]
        recipe = replace(base, name="sized", settings=settings(widths))
        nbytes = overhead + sum(size for size, _ in chosen)
        recipes.append(SizedRecipe(recipe, nbytes, sum(loss for _, loss in chosen)))
    return recipes


def uniform(base: Recipe, width: int | None) -> Recipe:
    return replace(base, settings=settings((width,) * len(GROUPS)))


def settings(widths: Sequence[int | None]) -> dict[str, Any]:
    """Return the settings of every kind from the widths of the groups."""
    return {
        kind: None if width is None else affine(width)
        for group, width in zip(GROUPS, widths, strict=True)
        for kind in group
    }


def bytes_by_kind(plan: ConversionPlan) -> dict[str, int]:
    """Sum the result's bytes of each kind of tensor, biases included."""
    sizes = dict.fromkeys(KINDS, 0)
    for step in plan.steps:
        kind = kind_of(step.sources[0].name.rpartition(".")[0])
        if kind is not None:
            sizes[kind] += sum(tensor.nbytes for tensor in step.outputs)
    return sizes


def folder_bytes(plan: ConversionPlan) -> int:
    """Return an upper bound of the size of the finished folder."""
    tensors = sum(len(step.outputs) for step in plan.steps)
    return (
        sum(shard.nbytes for shard in plan.shards)
        + sum(map(len, plan.texts.values()))
        + sum(path.stat().st_size for path in plan.companions)
        + tensors * RECORD_BYTES
    )


def frontier(recipes: Sequence[SizedRecipe]) -> list[SizedRecipe]:
    """Return the Pareto frontier of size and loss, smallest first."""
    kept: list[SizedRecipe] = []
    for sized in sorted(recipes, key=lambda sized: (sized.nbytes, sized.loss)):
        if not kept or sized.loss < kept[-1].loss:
            kept.append(sized)
    return kept


def choose(recipes: Sequence[SizedRecipe], limit: SizeLimit) -> SizedRecipe:
    """Return the recipe of least loss that fits; `recipes` are a frontier.

    Raises ConversionError if none fits, naming the smallest size and what would help.
    """
    fitting = [sized for sized in recipes if sized.nbytes <= limit.nbytes]
    if fitting:
        return fitting[-1]
    least = recipes[0]
    raise ConversionError(
        f"no recipe fits {format_bytes(limit.nbytes)} ({limit.why}): the smallest "
        f"takes {format_bytes(least.nbytes)}, nearly all of it experts, so it takes "
        "`--expert-bits 3`, which costs quality, or more room"
    )


def memory_limit(
    config: ModelConfig, memory: int, context: int | None = None
) -> SizeLimit:
    """Return the largest size of weights on a Mac with `memory` bytes."""
    usable = int(memory * GPU_SHARE)
    budget = Budget(usable, memory, "what macOS gives the GPU", metal=True)
    plan = estimate(PlannedModel("", config, {}), budget, context=context)
    why = (
        f"of {format_bytes(memory)} macOS gives the GPU {format_bytes(usable)}, and "
        f"{plan.context:,} tokens take {format_bytes(plan.total_bytes)} to work on"
    )
    return SizeLimit(max(usable - plan.total_bytes, 0), why)


def frontier_lines(
    recipes: Sequence[SizedRecipe], chosen: SizedRecipe, limit: SizeLimit
) -> Iterator[str]:
    """Format the frontier as a thinned table with the chosen recipe marked."""
    yield f"room for {format_bytes(limit.nbytes)}: {limit.why}"
    yield f"  {'size':>9}  {'loss':>8}  " + "  ".join(f"{k:>7}" for k in KINDS)
    for sized in thinned(recipes, chosen):
        mark = ">" if sized is chosen else " "
        bits = "  ".join(f"{width:>7}" for width in describe_widths(sized.recipe))
        yield f"{mark} {format_bytes(sized.nbytes):>9}  {sized.loss:8.2e}  {bits}"


def thinned(recipes: Sequence[SizedRecipe], chosen: SizedRecipe) -> list[SizedRecipe]:
    """Return about `FRONTIER_ROWS` recipes, evenly spaced, with the chosen one."""
    step = max(1, -(-(len(recipes) - 1) // (FRONTIER_ROWS - 1)))
    kept = {*range(0, len(recipes), step), len(recipes) - 1, recipes.index(chosen)}
    return [recipes[n] for n in sorted(kept)]


def describe_widths(recipe: Recipe) -> list[str]:
    found = (recipe.settings[kind] for kind in KINDS)
    return [DENSE if setting is None else f"{setting.bits}" for setting in found]
