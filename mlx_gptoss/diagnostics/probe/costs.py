"""Measure the costs of the parts of a forward pass, and check their sum on a model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.diagnostics.probe.layers import cache_bytes
from mlx_gptoss.diagnostics.probe.products import (
    TimedProduct,
    cold_seconds,
    make_expert_tables,
    make_table,
    prepare_attention,
    prepare_products,
)
from mlx_gptoss.diagnostics.probe.small_models import (
    SHORT_PROMPT,
    SmallModel,
    run_in_turn,
    write_small_models,
)
from mlx_gptoss.diagnostics.probe.stopwatch import (
    Clock,
    ProbeScale,
    TimedPiece,
    median_spread,
    time_rounds,
    warm_up,
)
from mlx_gptoss.files import scratch
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.memory.costs import Costs
from mlx_gptoss.memory.sizes import MXFP4_BITS
from mlx_gptoss.memory.speed import MARGIN
from mlx_gptoss.memory.step_time import (
    BitsPerWeight,
    decode_time,
    prefill_time,
    row_values,
)
from mlx_gptoss.model.device import choose_dtype
from mlx_gptoss.model.experts.resident import (
    ONE_BY_ONE_MIN_PRODUCTS,
    ONE_BY_ONE_MIN_ROWS,
)


@dataclass(frozen=True)
class MeasuredCosts:
    """Costs, the spread of their repeats, and a small model by its forecast.

    `step_ratio` and `first_token_ratio` are measured seconds by forecast seconds, each
    of a model from which the other was derived.
    """

    costs: Costs
    spread: float
    step_ratio: float
    first_token_ratio: float

    @property
    def doubts(self) -> list[str]:
        """Say so if the small model ran outside the bounds of its forecast."""
        ratios = {"step": self.step_ratio, "first token": self.first_token_ratio}
        return [
            f"a small model's {name} took {ratio:.2f}x of its forecast"
            for name, ratio in ratios.items()
            if not 1 / MARGIN <= ratio <= MARGIN
        ]


def measure_costs(
    folder: Path,
    scale: ProbeScale = ProbeScale(),  # noqa: B008 - it is frozen
    *,
    clock: Clock = time.perf_counter,
) -> MeasuredCosts:
    """Measure this machine; `folder` holds small models of 7 MB for a moment."""
    costs, pieces = _measure_products(scale, clock)
    mx.clear_cache()
    with scratch(folder) as inside:
        few, many, wide = write_small_models(inside)
        run_in_turn((few, many, wide), scale, clock)
    costs = _add_rest(costs, scale, few, many, wide)
    spread = median_spread([*pieces, *(x.steps for x in (few, many, wide))])
    return MeasuredCosts(
        costs,
        spread,
        wide.steps.median / _forecast_step(costs, scale, wide),
        many.first_tokens.median / _forecast_first(costs, scale.prompt, many),
    )


def _measure_products(
    scale: ProbeScale, clock: Clock
) -> tuple[Costs, list[TimedPiece]]:
    products = list(prepare_products(clock, largest=scale.largest))
    attention = prepare_attention()
    for piece, _ in attention.values():
        warm_up(piece, clock)
    pieces = [x.piece for x in products] + [piece for piece, _ in attention.values()]
    time_rounds(pieces, rounds=scale.rounds, clock=clock)
    return _make_costs(products, attention), pieces


def _make_costs(
    products: Sequence[TimedProduct], attention: dict[str, tuple[TimedPiece, float]]
) -> Costs:
    experts, dequantized, experts_call = make_expert_tables(products)
    (many, keys), (few, few_keys) = attention["many keys"], attention["few keys"]
    (scored, pairs) = attention["score"]
    return Costs(
        dense=make_table(products, "dense"),
        affine8=make_table(products, "affine8"),
        affine4=make_table(products, "affine4"),
        experts=experts,
        dequantized=dequantized,
        dequantize_rows=ONE_BY_ONE_MIN_ROWS,
        dequantize_products=ONE_BY_ONE_MIN_PRODUCTS,
        experts_call=experts_call,
        key=max(0.0, many.median - few.median) / (keys - few_keys),
        score=scored.median / pairs,
        layer=0.0,
        step=0.0,
        first=0.0,
        value=0.0,
        cold=cold_seconds(products, "dense"),
        cold_expert=cold_seconds(products, "experts"),
        cache_bytes=cache_bytes(),
    )


def _add_rest(
    costs: Costs,
    scale: ProbeScale,
    few: SmallModel,
    many: SmallModel,
    wide: SmallModel,
) -> Costs:
    """Return `costs` with all of the models' time that the products do not explain.

    The rest of a step and of a short prompt comes from narrow models of few and many
    layers, that of a row of prefill from a wide one. Each is checked with the other
    (see `measure_costs`).
    """
    more = many.config.num_hidden_layers - few.config.num_hidden_layers
    rest = [x.steps.median - _forecast_step(costs, scale, x) for x in (few, many)]
    layer = max(0.0, rest[1] - rest[0]) / more
    step = max(0.0, rest[0] - few.config.num_hidden_layers * layer)
    costs = replace(costs, layer=layer, step=step)
    of_first = many.short_prompts.median - _forecast_first(costs, SHORT_PROMPT, many)
    first = max(0.0, of_first) / many.config.num_hidden_layers
    costs = replace(costs, first=first)
    of_rows = wide.first_tokens.median - _forecast_first(costs, scale.prompt, wide)
    rows = wide.config.num_hidden_layers * (scale.prompt - 1)
    return replace(costs, value=max(0.0, of_rows) / rows / row_values(wide.config))


def _forecast_step(costs: Costs, scale: ProbeScale, model: SmallModel) -> float:
    depth = scale.prompt + scale.answer // 2
    return decode_time(costs, model.config, _small_bits(), depth).total


def _forecast_first(costs: Costs, prompt: int, model: SmallModel) -> float:
    config, bits = model.config, _small_bits()
    return prefill_time(costs, config, bits, prompt, PREFILL_CHUNK).total


def _small_bits() -> BitsPerWeight:
    floats = 8 * choose_dtype(None).size
    return BitsPerWeight(floats, floats, MXFP4_BITS)
