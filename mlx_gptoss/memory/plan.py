"""Decide from sizes where the experts are placed, before anything is loaded.

Never opens a file or allocates an array.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import ATTENTION, EMBEDDING, EXPERTS, LM_HEAD
from mlx_gptoss.memory.budget import Budget, limit_budget
from mlx_gptoss.memory.hit_rates import HitCurve
from mlx_gptoss.memory.machines import UNKNOWN_MACHINE, Machine
from mlx_gptoss.memory.planned_model import PlannedModel, StorageOptions
from mlx_gptoss.memory.sizes import (
    DEFAULT_CONTEXT,
    FLOAT_BYTES,
    PREFILL_CHUNK,
    bias_bytes,
    kv_bytes,
    record_bytes,
    scratch_bytes,
)
from mlx_gptoss.memory.speed import Workload, parameters_read, predict
from mlx_gptoss.memory.step_time import BitsPerWeight

RESIDENT, STREAMED, HYBRID = "resident", "streamed", "hybrid"
AUTO = "auto"
MODES = (AUTO, RESIDENT, HYBRID, STREAMED)
ADAPTERS = "adapters"  # the part of a plan that is not the model's own

# Each prefill chunk reads all absent experts again, so long chunks are better while
# their scratch memory is at most this share of the budget. On a CPU they are no longer
# than those of a resident model, so that sums are computed in the same order.
STREAMED_CHUNKS = (2048, 1024, 512, 256, 128, 64, 32)
SCRATCH_SHARE = 1 / 8
# Left free beside the pools: allocators round up, and the system's page cache serves as
# a second level.
HEADROOM_SHARE, MOST_HEADROOM = 1 / 16, 2 * 2**30


@dataclass(frozen=True)
class Plan:
    """Placement of a model's bytes, decided before the first weight is read.

    `bytes_by_part` counts bytes in memory, pools and adapters included; `slots` maps
    each streamed layer to its number of slots; `refusal` says why experts cannot be
    streamed.
    """

    mode: str
    bytes_by_part: Mapping[str, int]
    kv_bytes: int
    scratch_bytes: int
    context: int
    budget: Budget
    float_bytes: int = FLOAT_BYTES
    slots: Mapping[int, int] = field(default_factory=dict)
    headroom_bytes: int = 0
    record_bytes: int = 0  # of one expert in memory
    whole_bytes: int = 0  # of all weights, were they resident, without adapters
    prefill_chunk: int = PREFILL_CHUNK
    refusal: str | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's own weights in memory."""
        return sum(self.bytes_by_part.values()) - self.adapter_bytes

    @property
    def adapter_bytes(self) -> int:
        return self.bytes_by_part.get(ADAPTERS, 0)

    @property
    def total_bytes(self) -> int:
        return (
            self.weight_bytes
            + self.adapter_bytes
            + self.kv_bytes
            + self.scratch_bytes
            + self.headroom_bytes
        )

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.budget.bytes

    @property
    def least_slots(self) -> int:
        return min(self.slots.values(), default=0)

    def with_adapters(self, adapter_bytes: int) -> "Plan":
        """Return this plan with adapters of this size instead of those it counts."""
        parts = dict(self.bytes_by_part)
        parts.pop(ADAPTERS, None)
        if adapter_bytes:
            parts[ADAPTERS] = adapter_bytes
        return replace(self, bytes_by_part=parts)


def estimate(
    model: PlannedModel, budget: Budget, *, context: int | None = None
) -> Plan:
    """Plan a model with resident experts, within all of a budget."""
    config, float_bytes = model.config, model.float_bytes
    tokens = min(context or DEFAULT_CONTEXT, config.max_position_embeddings)
    scratch = scratch_bytes(config, tokens, float_bytes=float_bytes, metal=budget.metal)
    kv = kv_bytes(config, tokens, float_bytes=float_bytes)
    parts = dict(model.bytes_by_part)
    plan = Plan(
        RESIDENT,
        parts,
        kv,
        scratch,
        tokens,
        budget,
        float_bytes,
        record_bytes=model.expert_bytes or record_bytes(config),
        whole_bytes=sum(parts.values()),
        refusal=model.refusal,
    )
    return plan.with_adapters(model.adapter_bytes)


def plan_storage(
    model: PlannedModel,
    options: StorageOptions,
    budget: Budget,
    *,
    machine: Machine = UNKNOWN_MACHINE,
    curve: HitCurve | None = None,
) -> Plan:
    """Plan resident, hybrid or streamed experts; `auto` takes the first that fits.

    `budget` is the device's, of which `options.memory` is used. The plan may not fit
    (see `require_fit`); a streamed one then has too few slots. Of a model with a
    `refusal`, `auto` is resident and other modes raise ConfigError.
    """
    config, experts = model.config, options.experts
    if model.refusal is not None:
        if experts not in (AUTO, RESIDENT):
            raise ConfigError(model.refusal)
        experts = RESIDENT
    budget = limit_budget(budget, options.memory)
    resident = estimate(model, budget, context=options.context)
    if experts == RESIDENT or (experts == AUTO and resident.fits):
        return resident
    base = _without_experts(resident, config)
    records = max(0, budget.bytes - base.total_bytes) // base.record_bytes
    known = curve or HitCurve()
    candidates = [
        plan
        for whole in range(config.num_hidden_layers)
        if (plan := _place(base, config, records, whole, known)) is not None
    ]
    wanted = {STREAMED: candidates[:1], HYBRID: candidates[1:]}.get(experts, candidates)
    if not wanted:
        return base
    return min(wanted, key=lambda plan: _cost(plan, config, machine, known))


def describe_placement(plan: Plan, config: ModelConfig) -> str:
    """Describe in a few words where a plan places the experts."""
    if not plan.slots:
        return RESIDENT
    whole = config.num_hidden_layers - len(plan.slots)
    slots = f"{plan.least_slots} of {config.num_local_experts} in slots"
    layers = f"{whole} of {config.num_hidden_layers} layers resident, " if whole else ""
    return f"{plan.mode}, {layers}{slots}"


def measure_workload(plan: Plan, config: ModelConfig) -> Workload:
    """Compute the memory, disk and arithmetic that a token and a prompt need."""
    k, layers = config.num_experts_per_tok, config.num_hidden_layers
    expert = plan.record_bytes + bias_bytes(config, float_bytes=plan.float_bytes)
    rest = plan.whole_bytes - config.total_experts * expert
    rest -= plan.bytes_by_part.get(
        EMBEDDING, 0
    )  # rows are looked up, not read as a whole
    expert_bytes = k * layers * expert
    return Workload(
        config,
        _bits_per_weight(plan, config),
        active_bytes=rest + expert_bytes,
        expert_bytes=expert_bytes,
        active_weights=parameters_read(config),
        weight_bytes=plan.weight_bytes,
        record_bytes=plan.record_bytes,
        slots=tuple(plan.slots.values()),
        chunk=plan.prefill_chunk,
    )


def _bits_per_weight(plan: Plan, config: ModelConfig) -> BitsPerWeight:
    """Compute how wide weights are, floats where the sizes of the parts are unknown."""
    M, F, D = config.hidden_size, config.intermediate_size, config.head_dim
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    floats = 8 * plan.float_bytes

    def bits(part: str, weights: int) -> float:
        return min(floats, 8 * plan.bytes_by_part.get(part, weights * floats) / weights)

    return BitsPerWeight(
        attention=bits(ATTENTION, config.num_hidden_layers * M * D * heads),
        head=bits(LM_HEAD, config.vocab_size * M),
        experts=8 * plan.record_bytes / (3 * M * F),
    )


def _without_experts(resident: Plan, config: ModelConfig) -> Plan:
    """Remove the stacks of experts; add the scratch memory that streaming needs."""
    parts = dict(resident.bytes_by_part)
    biases = bias_bytes(config, float_bytes=resident.float_bytes)
    if EXPERTS in parts:
        # Not what the records take, which are the largest of all layers.
        parts[EXPERTS] = min(parts[EXPERTS], config.total_experts * biases)
    else:
        owner = next(iter(parts))
        stacks = config.total_experts * resident.record_bytes
        parts[owner] = max(0, parts[owner] - stacks)
    budget = resident.budget

    def scratch(chunk: int) -> int:
        return scratch_bytes(
            config,
            resident.context,
            float_bytes=resident.float_bytes,
            metal=budget.metal,
            chunk=chunk,
        )

    longest = STREAMED_CHUNKS[0] if budget.metal else PREFILL_CHUNK
    small = (
        n
        for n in STREAMED_CHUNKS
        if n <= longest and scratch(n) <= SCRATCH_SHARE * budget.bytes
    )
    chunk = next(small, STREAMED_CHUNKS[-1])
    return replace(
        resident,
        mode=STREAMED,
        bytes_by_part=parts,
        scratch_bytes=scratch(chunk),
        prefill_chunk=chunk,
        headroom_bytes=min(int(budget.bytes * HEADROOM_SHARE), MOST_HEADROOM),
    )


def _place(
    base: Plan, config: ModelConfig, records: int, whole: int, curve: HitCurve
) -> Plan | None:
    """Keep `whole` layers resident and divide the rest into slots; None if too few.

    Resident are the layers that would miss most, if known.
    """
    layers = config.num_hidden_layers
    order = curve.worst_layers if len(curve.worst_layers) == layers else range(layers)
    resident = sum(map(config.experts_in, order[:whole]))
    each, more = divmod(records - resident, layers - whole)
    if each < config.num_experts_per_tok:
        return None
    slots = {
        layer: min(config.experts_in(layer), each + (n < more))
        for n, layer in enumerate(sorted(order[whole:]))
    }
    return with_slots(base, config, slots, HYBRID if whole else STREAMED)


def with_slots(
    base: Plan, config: ModelConfig, slots: Mapping[int, int], mode: str
) -> Plan:
    """Replace the slots of a streamed plan; layers without slots are resident."""
    held = held_experts(config, slots)
    # With no slots, no experts are placed yet.
    before = held_experts(config, base.slots) if base.slots else 0
    parts = dict(base.bytes_by_part)
    owner = EXPERTS if EXPERTS in parts else next(iter(parts))
    parts[owner] += (held - before) * base.record_bytes
    return replace(base, mode=mode, bytes_by_part=parts, slots=slots)


def held_experts(config: ModelConfig, slots: Mapping[int, int]) -> int:
    """Count the experts in slots, and those of the layers without slots."""
    layers = range(config.num_hidden_layers)
    return sum(slots.get(layer, config.experts_in(layer)) for layer in layers)


def _cost(plan: Plan, config: ModelConfig, machine: Machine, curve: HitCurve) -> float:
    found = predict(measure_workload(plan, config), machine, curve, prompt_tokens=1)
    return sum(found.terms.values())
