"""What a model would do on a Mac: a plan, its speed, and what would change it.

From headers, or from the published shapes without any file; reads no weights and
needs no device of the kind it plans for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.expert_records import expert_bytes_in_memory, explain_refusal
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import EXPERTS
from mlx_gptoss.memory import (
    SYSTEM_RESERVE,
    Budget,
    HitCurve,
    Machine,
    Plan,
    Prediction,
    format_bytes,
    kv_bytes,
    measure_workload,
    parse_bytes,
    plan_storage,
    predict,
    recipe_bytes,
    recipe_parts,
    require_fit,
)
from mlx_gptoss.memory.plan import AUTO, RESIDENT
from mlx_gptoss.memory.published_models import PublishedModel
from mlx_gptoss.memory.sizes import (
    FLOAT_BYTES,
    OFFERED_RECIPES,
    bias_bytes,
    record_bytes,
)

REQUESTED_MEMORY = "the memory asked for"
NOT_DOWNLOADED = (
    "how its experts are packed is not known before it is here: `pull` it first"
)
PROMPT_TOKENS = 1000  # of the prompt whose first token is predicted
MAX_CONVERTED_FRACTION = 0.98  # of the bytes of a model that is here
OTHER_CONTEXTS = (4096, 32768, 131072)


@dataclass(frozen=True)
class PlannedModel:
    """A model to plan for: its sizes, as they lie in memory."""

    name: str
    config: ModelConfig
    bytes_by_part: Mapping[str, int]
    float_bytes: int
    recipe: str | None = None  # of a published shape
    expert_bytes: int | None = None  # of one expert, if it is not MXFP4
    refusal: str | None = None  # why experts cannot be read one by one


@dataclass(frozen=True)
class Alternative:
    """A change of one thing, and the plan and speed it leads to."""

    change: str
    plan: Plan
    prediction: Prediction


@dataclass(frozen=True)
class Forecast:
    """A plan that holds, and how fast it should be."""

    model: PlannedModel
    plan: Plan
    prediction: Prediction
    alternatives: tuple[Alternative, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "recipe": self.model.recipe,
            "machine": vars(self.prediction.machine),
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
    """Plan for a published model under a recipe, without any file."""
    chosen = recipe or shape.recipe
    parts = recipe_parts(shape.config, chosen)
    return PlannedModel(name, shape.config, parts, FLOAT_BYTES, recipe=chosen)


def model_from_folder(folder: Path, name: str, float_bytes: int) -> PlannedModel:
    """Plan for a checkpoint on disk, from its headers."""
    checkpoint = open_checkpoint(folder)
    return PlannedModel(
        name,
        checkpoint.config,
        checkpoint.loaded_bytes_by_part(float_bytes),
        float_bytes,
        expert_bytes=expert_bytes_in_memory(checkpoint, float_bytes),
        refusal=explain_refusal(checkpoint),
    )


def model_from_config(
    config: ModelConfig, name: str, weight_bytes: int
) -> PlannedModel:
    """Plan for a model that is not here: its config, and the bytes of its weights."""
    layers = config.num_hidden_layers
    stacks = config.num_local_experts * record_bytes(config) * layers
    experts = stacks + layers * bias_bytes(config, float_bytes=FLOAT_BYTES)
    if (
        weight_bytes <= experts
    ):  # packed in some other way: nothing is known of the parts
        parts = {"weights": weight_bytes}
        return PlannedModel(name, config, parts, FLOAT_BYTES, refusal=NOT_DOWNLOADED)
    parts = {EXPERTS: experts, "rest": weight_bytes - experts}
    return PlannedModel(name, config, parts, FLOAT_BYTES)


def forecast(
    model: PlannedModel,
    budget: Budget,
    machine: Machine,
    *,
    context: int | None = None,
    experts: str = AUTO,
    curve: HitCurve | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
) -> Forecast:
    """Plan and predict.

    Raises MemoryBudgetError with the sum if it cannot run, and ConfigError if experts
    are to be read from disk that cannot be.
    """
    asked = _Scenario(model, budget, machine, context, experts, curve, prompt_tokens)
    plan, prediction = asked.evaluate()
    return Forecast(model, plan, prediction, tuple(asked.alternatives(plan)))


@dataclass(frozen=True)
class _Scenario:
    """What a plan depends on."""

    model: PlannedModel
    budget: Budget
    machine: Machine
    context: int | None
    experts: str
    curve: HitCurve | None
    prompt_tokens: int

    def evaluate(self) -> tuple[Plan, Prediction]:
        subject = self.model
        plan = plan_storage(
            subject.config,
            subject.bytes_by_part,
            budget=self.budget,
            context=self.context,
            float_bytes=subject.float_bytes,
            experts=self.experts,
            machine=self.machine,
            curve=self.curve,
            expert_bytes=subject.expert_bytes,
            refusal=subject.refusal,
        )
        require_fit(plan, subject.config, subject.name)
        curve = self.curve or HitCurve()
        work = measure_workload(plan, subject.config)
        prediction = predict(
            work, self.machine, curve, prompt_tokens=self.prompt_tokens
        )
        return plan, prediction

    def alternatives(self, plan: Plan) -> Iterator[Alternative]:
        """Answer for what a user could change; what cannot run is left out."""
        for change, question in self._changes(plan):
            try:
                yield Alternative(change, *question.evaluate())
            except MemoryBudgetError:
                continue

    def _changes(self, plan: Plan) -> "Iterator[tuple[str, _Scenario]]":
        subject, budget = self.model, self.budget
        for context in OTHER_CONTEXTS:
            if context != plan.context and context <= max_context(subject.config):
                size = kv_bytes(subject.config, context, float_bytes=plan.float_bytes)
                change = f"--context {context} ({format_bytes(size)} of KV cache)"
                yield change, replace(self, context=context)
        for recipe in OFFERED_RECIPES:
            size = recipe_bytes(subject.config, recipe, float_bytes=plan.float_bytes)
            smaller = size < plan.whole_bytes * MAX_CONVERTED_FRACTION
            if recipe == subject.recipe or (subject.recipe is None and not smaller):
                continue
            other = replace(
                subject,
                bytes_by_part=recipe_parts(
                    subject.config, recipe, float_bytes=subject.float_bytes
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
    return config.max_position_embeddings


def limit_budget(budget: Budget, memory: str | int | None) -> Budget:
    """Lower a budget to what the user allows, up to all there is."""
    if memory is None:
        return budget
    wanted = min(parse_bytes(memory), budget.total)
    return replace(budget, bytes=wanted, source=REQUESTED_MEMORY)


def plan_as_json(plan: Plan, config: ModelConfig) -> dict[str, Any]:
    """Describe a plan as JSON can hold it."""
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


def prediction_as_json(prediction: Prediction) -> dict[str, Any]:
    """Describe a prediction as JSON can hold it."""
    return {
        "tokens_per_second": vars(prediction.tokens_per_second),
        "first_token_seconds": vars(prediction.first_token_seconds),
        "hit_rate": vars(prediction.hit_rate),
        "hit_rate_source": prediction.curve_source,
        "prompt_tokens": prediction.prompt_tokens,
        "milliseconds": dict(prediction.terms),
    }
