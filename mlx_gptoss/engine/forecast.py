"""Forecast a model on a machine: memory plan, speed, and alternatives.

Works from headers, or from published shapes without any file. Reads no weights and
needs no device of the kind it plans for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.engine.hit_curve import load_hit_curve
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import describe_checkpoint
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import EXPERTS
from mlx_gptoss.memory import (
    SYSTEM_RESERVE,
    Budget,
    HitCurve,
    Machine,
    Plan,
    PlannedModel,
    Prediction,
    format_bytes,
    kv_bytes,
    measure_workload,
    plan_storage,
    predict,
    recipe_bytes,
    recipe_parts,
    require_fit,
)
from mlx_gptoss.memory.budget import REQUESTED_MEMORY
from mlx_gptoss.memory.plan import RESIDENT
from mlx_gptoss.memory.published_models import PublishedModel
from mlx_gptoss.memory.sizes import (
    FLOAT_BYTES,
    OFFERED_RECIPES,
    bias_bytes,
    record_bytes,
)

NOT_DOWNLOADED = (
    "the packing of its experts is unknown before download: `pull` it first"
)
PROMPT_TOKENS = 1000  # prompt length of the predicted time to first token
MAX_CONVERTED_FRACTION = 0.98  # of its size; a larger conversion is not offered
OTHER_CONTEXTS = (4096, 32768, 131072)


@dataclass(frozen=True)
class PlanAlternative:
    """One change, and the resulting plan and speed."""

    change: str
    plan: Plan
    prediction: Prediction


@dataclass(frozen=True)
class Forecast:
    """A plan that fits, its predicted speed, and alternatives."""

    model: PlannedModel
    plan: Plan
    curve: HitCurve
    prediction: Prediction
    alternatives: tuple[PlanAlternative, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values; bytes, seconds and tokens per second."""
        return {
            "model": self.model.name,
            "recipe": self.model.recipe,
            "machine": machine_as_json(self.prediction.machine),
            "plan": plan_as_json(self.plan, self.model.config),
            "prediction": prediction_as_json(self.prediction),
            "alternatives": [
                {
                    "change": other.change,
                    "mode": other.plan.mode,
                    "slots": other.plan.least_slots,
                    "tokens_per_second": vars(other.prediction.tokens_per_second),
                }
                for other in self.alternatives
            ],
        }


def model_from_shape(
    shape: PublishedModel, name: str, recipe: str | None = None
) -> PlannedModel:
    """Describe a published model converted by a recipe, without any file."""
    chosen = recipe or shape.recipe
    parts = recipe_parts(shape.config, chosen)
    return PlannedModel(name, shape.config, parts, FLOAT_BYTES, recipe=chosen)


def model_from_folder(folder: Path, name: str, float_bytes: int) -> PlannedModel:
    """Describe a checkpoint on disk, from its headers."""
    return describe_checkpoint(open_checkpoint(folder), float_bytes, name)


def model_from_config(
    config: ModelConfig, name: str, weight_bytes: int
) -> PlannedModel:
    """Describe a model that is not downloaded, by its config and size."""
    expert = record_bytes(config) + bias_bytes(config, float_bytes=FLOAT_BYTES)
    experts = config.total_experts * expert
    if weight_bytes <= experts:  # not MXFP4: the sizes of the parts are unknown
        parts = {"weights": weight_bytes}
        return PlannedModel(name, config, parts, FLOAT_BYTES, refusal=NOT_DOWNLOADED)
    parts = {EXPERTS: experts, "rest": weight_bytes - experts}
    return PlannedModel(name, config, parts, FLOAT_BYTES)


def forecast(
    model: PlannedModel,
    options: LoadOptions,
    budget: Budget,
    machine: Machine,
    *,
    prompt_tokens: int = PROMPT_TOKENS,
) -> Forecast:
    """Plan a model within a machine's budget, and predict its speed there.

    Raises MemoryBudgetError, with the sum, if it cannot run, and ConfigError if its
    experts cannot be read from disk as asked.
    """
    curve = load_hit_curve(options.trace, model.config)
    scenario = _Scenario(model, options, budget, machine, curve, prompt_tokens)
    plan, prediction = scenario.evaluate()
    others = tuple(scenario.alternatives(plan))
    return Forecast(model, plan, curve, prediction, others)


@dataclass(frozen=True)
class _Scenario:
    """Everything that a forecast depends on."""

    model: PlannedModel
    options: LoadOptions
    budget: Budget
    machine: Machine
    curve: HitCurve
    prompt_tokens: int

    def evaluate(self) -> tuple[Plan, Prediction]:
        """Plan and predict. Raises MemoryBudgetError if it cannot run."""
        model, machine, curve = self.model, self.machine, self.curve
        plan = plan_storage(
            model, self.options, self.budget, machine=machine, curve=curve
        )
        require_fit(plan, model.config, model.name)
        work = measure_workload(plan, model.config)
        prediction = predict(work, machine, curve, prompt_tokens=self.prompt_tokens)
        return plan, prediction

    def alternatives(self, plan: Plan) -> Iterator[PlanAlternative]:
        """Yield the changes a user could make whose plan can run."""
        for change, scenario in self._changes(plan):
            try:
                yield PlanAlternative(change, *scenario.evaluate())
            except MemoryBudgetError:
                continue

    def _changes(self, plan: Plan) -> "Iterator[tuple[str, _Scenario]]":
        model, budget = self.model, plan.budget
        for context in OTHER_CONTEXTS:
            if context != plan.context and context <= max_context(model.config):
                size = kv_bytes(model.config, context, float_bytes=plan.float_bytes)
                change = f"--context {context} ({format_bytes(size)} of KV cache)"
                yield (
                    change,
                    replace(self, options=replace(self.options, context=context)),
                )
        for recipe in OFFERED_RECIPES:
            size = recipe_bytes(model.config, recipe, float_bytes=plan.float_bytes)
            smaller = size < plan.whole_bytes * MAX_CONVERTED_FRACTION
            if recipe == model.recipe or (model.recipe is None and not smaller):
                continue
            other = replace(
                model,
                bytes_by_part=recipe_parts(
                    model.config, recipe, float_bytes=model.float_bytes
                ),
                recipe=recipe,
                expert_bytes=None,
                refusal=None,
            )
            change = f"convert --recipe {recipe} ({format_bytes(size)})"
            yield change, replace(self, model=other)
        raised = budget.total - SYSTEM_RESERVE
        limited = plan.mode != RESIDENT and budget.source != REQUESTED_MEMORY
        if budget.metal and raised > budget.bytes and limited:
            limit = raised // 2**20
            more = replace(budget, bytes=raised, source="the raised limit")
            yield (
                f"sudo sysctl iogpu.wired_limit_mb={limit} ({format_bytes(raised)})",
                replace(self, budget=more),
            )


def max_context(config: ModelConfig) -> int:
    """Return the most tokens the model supports."""
    return config.max_position_embeddings


def plan_as_json(plan: Plan, config: ModelConfig) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        "mode": plan.mode,
        "resident_layers": config.num_hidden_layers - len(plan.slots),
        "slots": dict(plan.slots),
        "experts": config.num_local_experts,
        "bytes_by_part": dict(plan.bytes_by_part),
        "kv_bytes": plan.kv_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "headroom_bytes": plan.headroom_bytes,
        "total_bytes": plan.total_bytes,
        "whole_bytes": plan.whole_bytes,
        "context": plan.context,
        "prefill_chunk": plan.prefill_chunk,
        "resident_only": plan.refusal,
        "budget": vars(plan.budget),
    }


def machine_as_json(machine: Machine) -> dict[str, Any]:
    """Return a machine as JSON values, without the costs that a probe measured."""
    return {name: value for name, value in vars(machine).items() if name != "costs"}


def prediction_as_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON values.

    Ranges have both ends, `low` and `high`; `basis` is "probe" if the machine was
    measured, else "guess", and `guessed` names what a probe cannot measure.
    """
    return {
        "basis": prediction.basis,
        "guessed": ["hit_rate"] if prediction.guessed_hits else [],
        "tokens_per_second": vars(prediction.tokens_per_second),
        "first_token_seconds": vars(prediction.first_token_seconds),
        "hit_rate": vars(prediction.hit_rate),
        "hit_rate_source": prediction.curve_source,
        "prompt_tokens": prediction.prompt_tokens,
        "milliseconds": dict(prediction.terms),
    }
