"""Decide from headers and lengths how a run computes, before a weight is read.

Activations are kept or computed again, and weights stay packed or are decoded: the
fastest way that fits is taken.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import mlx.core as mx

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import EMBEDDING
from mlx_gptoss.format.layout import EXPERTS as EXPERTS_PART
from mlx_gptoss.memory import Budget, PlannedModel, recipe_parts
from mlx_gptoss.memory.training import (
    FLOAT32_BYTES,
    TrainingLoad,
    TrainingPlan,
    plan_training,
    require_training_fit,
)
from mlx_gptoss.model.adapters.adapter import target_shapes
from mlx_gptoss.model.experts.blocks import rows_of_block
from mlx_gptoss.model.linear import DEQUANTIZE_MIN_ROWS, should_dequantize
from mlx_gptoss.workloads.tune.loss import tokens_at_once
from mlx_gptoss.workloads.tune.options import (
    ALL,
    ATTENTION,
    AUTO,
    EXPERTS,
    OFF,
    ON,
    TuneOptions,
)
from mlx_gptoss.workloads.tune.targets import first_layer, target_paths

LEAST_BATCH_TOKENS = 64
FORECAST = (ATTENTION, EXPERTS, ALL)


@dataclass(frozen=True)
class BatchSize:
    """The lengths of the documents of a batch, and its learned tokens."""

    lengths: tuple[int, ...]
    learned: int


@dataclass(frozen=True)
class TunePlanner:
    """Plans training one model with one set of options.

    can_decode: whether weights are quantized, and decoded ones would be multiplied by
        an optimized BLAS.
    fast_blas: whether float32 is multiplied by one, on a CPU: see `multiplies_fast`.
    """

    model: PlannedModel
    options: TuneOptions
    budget: Budget
    can_decode: bool = False
    fast_blas: bool = False

    def plan(self, sizes: Iterable[BatchSize]) -> TrainingPlan:
        """Return the first plan that fits the largest of some batches, else the last.

        Raises ConfigError for more layers than the model has.
        """
        load = max(
            (self._load(size) for size in sizes),
            key=lambda load: self._planned(load).array_bytes,
        )
        plans = [
            self._planned(replace(load, decoded=decoded, checkpointed=checkpointed))
            for decoded, checkpointed in product(self._decoding, self._checkpointing)
        ]
        return next((plan for plan in plans if plan.fits), plans[-1])

    def require_fit(self, plan: TrainingPlan) -> None:
        """Raise MemoryBudgetError unless a plan fits, with what would."""
        require_training_fit(plan, self.model.name, self._advice(plan))

    @property
    def _decoding(self) -> Sequence[bool]:
        if not self.can_decode:
            return (False,)
        return _choices(self.options.decode, fastest=True)

    @property
    def _checkpointing(self) -> Sequence[bool]:
        return _choices(self.options.checkpointing, fastest=False)

    def _load(self, size: BatchSize) -> TrainingLoad:
        config, options = self.model.config, self.options
        return TrainingLoad(
            lengths=size.lengths,
            learned=size.learned,
            layers=config.num_hidden_layers - first_layer(config, options),
            trained_values=trained_values(config, options),
            rank=options.rank,
            attention=ATTENTION in options.targets,
            experts=EXPERTS in options.targets,
            dropout=options.dropout > 0,
        )

    def _planned(self, load: TrainingLoad) -> TrainingPlan:
        load = self._with_products(load)
        parts = self.model.bytes_by_part
        weights = sum(parts.values())
        if load.decoded:
            weights = decoded_bytes(self.model.config, parts)
        return plan_training(
            self.model.config,
            weights,
            load,
            self.budget,
            float_bytes=self.model.float_bytes,
            logits_at_once=tokens_at_once(self.model.config.vocab_size),
        )

    def _with_products(self, load: TrainingLoad) -> TrainingLoad:
        """Add how the experts of a load are multiplied: see `Experts`."""
        config = self.model.config
        E = config.num_local_experts
        rows = load.tokens * config.num_experts_per_tok
        fast = self.fast_blas and rows // E >= DEQUANTIZE_MIN_ROWS
        return replace(
            load,
            decoded_again=fast and self.can_decode and not load.decoded,
            rows_of_block=rows_of_block(rows, E) if fast else 1,
        )

    def _advice(self, plan: TrainingPlan) -> str:
        for change, options, load in self._changes(plan.load):
            other = replace(self, options=options)
            if other._planned(load).fits:
                return f"use {change}"
        return "use a smaller model or more memory"

    def _changes(
        self, load: TrainingLoad
    ) -> Iterator[tuple[str, TuneOptions, TrainingLoad]]:
        """Yield options that need less memory, each with what it then computes."""
        options, config = self.options, self.model.config
        load = replace(load, checkpointed=True, decoded=False)
        yield "`--checkpointing on --decode off`", options, load
        tokens = load.tokens // 2
        while tokens >= LEAST_BATCH_TOKENS:
            learned = max(1, load.learned * tokens // load.tokens)
            fewer = replace(load, lengths=(tokens,), learned=learned)
            yield (
                f"`--checkpointing on --batch-tokens {tokens} --length {tokens}`",
                options,
                fewer,
            )
            tokens //= 2
        least = replace(options, target=(ATTENTION,))
        tokens = min(LEAST_BATCH_TOKENS, load.tokens)
        small = replace(
            load,
            lengths=(tokens,),
            learned=min(tokens, load.learned),
            experts=False,
            trained_values=trained_values(config, least),
        )
        yield (
            f"`--target attention --checkpointing on --batch-tokens {tokens} "
            f"--length {tokens}`",
            least,
            small,
        )


def multiplies_fast(dtype: mx.Dtype) -> bool:
    """Return whether an optimized BLAS multiplies matrices of this dtype, on a CPU."""
    return should_dequantize(DEQUANTIZE_MIN_ROWS, dtype)


@dataclass(frozen=True)
class TuneForecast:
    """What training some weights takes, in one way of computing."""

    target: str
    plan: TrainingPlan

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values; bytes."""
        plan, load = self.plan, self.plan.load
        return {
            "target": self.target,
            "trained_values": load.trained_values,
            "batch_tokens": load.tokens,
            "checkpointing": load.checkpointed,
            "decoded": load.decoded,
            "weight_bytes": plan.weight_bytes,
            "trained_bytes": plan.trained_bytes,
            "activation_bytes": plan.activation_bytes,
            "logit_bytes": plan.logit_bytes,
            "total_bytes": plan.total_bytes,
            "fits": plan.fits,
        }


def forecast_tuning(
    model: PlannedModel, options: TuneOptions, budget: Budget, *, can_decode: bool
) -> list[TuneForecast]:
    """Forecast attention, experts and all, each in every way of computing.

    The batch is one document of `options.batch_tokens`, all of it learned.
    """
    size = BatchSize((options.batch_tokens,), options.batch_tokens)
    decoding = (ON, OFF) if can_decode else (OFF,)
    found = []
    for target, decode, again in product(FORECAST, decoding, (OFF, ON)):
        own = replace(options, target=(target,), decode=decode, checkpointing=again)
        planner = TunePlanner(
            model, own, budget, can_decode=can_decode, fast_blas=can_decode
        )
        found.append(TuneForecast(target, planner.plan([size])))
    return found


def _choices(given: str, *, fastest: bool) -> Sequence[bool]:
    """Return the values to try, the fastest first."""
    return (fastest, not fastest) if given == AUTO else (given == ON,)


def trained_values(config: ModelConfig, options: TuneOptions) -> int:
    """Return the numbers in all updates: of each matrix rank x (inputs + outputs)."""
    shapes = target_shapes(config)
    total = 0
    for path in target_paths(config, options):
        *experts, outputs, inputs = shapes[path]
        count = experts[0] if experts else 1
        total += count * options.rank * (inputs + outputs)
    return total


def decoded_bytes(config: ModelConfig, bytes_by_part: Mapping[str, int]) -> int:
    """Return the bytes of a model whose matrices are float32, but for its embedding."""
    parts = recipe_parts(config, "lossless", float_bytes=FLOAT32_BYTES)
    M, F = config.hidden_size, config.intermediate_size
    experts = config.total_experts
    parts[EXPERTS_PART] = FLOAT32_BYTES * experts * (3 * M * F + 2 * F + M)
    parts[EMBEDDING] = bytes_by_part[EMBEDDING]
    return sum(parts.values())
