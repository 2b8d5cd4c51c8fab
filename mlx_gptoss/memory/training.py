"""The memory that training an adapter takes, computed from shapes before it starts.

What is counted: the weights, the trained numbers with their optimizer,
what the layers keep for the gradient, and the logits of the learned tokens. The
activations were counted operation by operation, and compared with MLX's peak.

Dimensions as in `model.gpt_oss`; f bytes per float.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import SLIDING, ModelConfig
from mlx_gptoss.memory.budget import Budget
from mlx_gptoss.memory.sizes import PROCESS_BYTES
from mlx_gptoss.memory.units import format_bytes

FLOAT32_BYTES = 4
# Of every trained number: itself, its gradient and AdamW's two moments while gradients
# are computed; then also the new value of each beside the old one.
COPIES_OF_TRAINED = 4
COPIES_IN_UPDATE = 7
COPIES_BETWEEN_STEPS = 3  # itself and the moments
COPIES_OF_LOGITS = 3  # logits, their exponentials, and their gradient
# The gradients of the layer in progress and what is computed ahead of it, by what a
# layer keeps, and by the scores of the longest document: measured.
LAYER_IN_PROGRESS, SCORES_IN_PROGRESS = 1.15, 1.6
LAYER_COMPUTED_AGAIN, SCORES_COMPUTED_AGAIN = 2.2, 6.0
KEPT_OF_DROPOUT = 1.25  # an input with its dropped values, and a byte of each
QUERY_BLOCK = 128  # queries attended at once on a CPU; see `model.attention`


@dataclass(frozen=True)
class TrainingLoad:
    """The largest batch of a run, and what is trained on it.

    lengths: of the packed documents; learned: tokens learned. layers: those that need
    a gradient. trained_values: numbers in all updates, of this rank. attention,
    experts: whether these get updates. checkpointed: layers are computed again for
    their gradient. decoded: weights are kept in float32; decoded_again: they are
    decoded for every product. rows_of_block: of an expert that are multiplied at once,
    see `model.experts.blocks`. dropout: whether inputs of updates are dropped.
    """

    lengths: tuple[int, ...]
    learned: int
    layers: int
    trained_values: int
    rank: int
    attention: bool = True
    experts: bool = False
    checkpointed: bool = False
    decoded: bool = False
    decoded_again: bool = False
    rows_of_block: int = 1
    dropout: bool = False

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class TrainingPlan:
    """Bytes of each part at the peak of a training step."""

    weight_bytes: int
    trained_bytes: int
    activation_bytes: int
    logit_bytes: int
    load: TrainingLoad
    budget: Budget = field(repr=False)

    @property
    def array_bytes(self) -> int:
        """Bytes of MLX's arrays, as `mx.get_peak_memory` counts them."""
        return (
            self.weight_bytes
            + self.trained_bytes
            + self.activation_bytes
            + self.logit_bytes
        )

    @property
    def step_bytes(self) -> int:
        """Bytes of MLX's arrays that a step takes beyond those held between steps."""
        trained = FLOAT32_BYTES * self.load.trained_values
        return self.array_bytes - self.weight_bytes - COPIES_BETWEEN_STEPS * trained

    @property
    def total_bytes(self) -> int:
        return self.array_bytes + PROCESS_BYTES

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.budget.bytes


def plan_training(
    config: ModelConfig,
    weight_bytes: int,
    load: TrainingLoad,
    budget: Budget,
    *,
    float_bytes: int,
    logits_at_once: int,
) -> TrainingPlan:
    """Plan one step; `weight_bytes` are those of the loaded model, decoded or not."""
    attention = attention_values(config, load)
    values = attention + expert_values(config, load)
    heads = config.num_attention_heads
    scores = heads * average_scores(config, load.lengths, metal=budget.metal)
    longest = heads * average_scores(config, [max(load.lengths)], metal=budget.metal)
    boundary = load.tokens * config.hidden_size
    if load.checkpointed:  # the inputs of all layers, and one layer computed again
        kept = (load.layers + 1) * boundary
        working = LAYER_COMPUTED_AGAIN * values + SCORES_COMPUTED_AGAIN * longest
    else:
        kept = load.layers * (values + scores)
        if not load.attention:  # below the lowest update nothing has a gradient
            kept -= min(kept, attention + scores)
        working = LAYER_IN_PROGRESS * values + SCORES_IN_PROGRESS * longest
    if not load.layers:
        working = 0
    activations = round(float_bytes * (kept + working + 2 * boundary))
    if load.decoded_again:
        activations += decoded_product_bytes(config)
    tokens = min(load.learned, logits_at_once)
    logits = COPIES_OF_LOGITS * FLOAT32_BYTES * tokens * config.vocab_size
    # Logits are gone when a layer is in progress: the larger of both counts.
    logits = max(0, logits - round(float_bytes * working))
    trained = FLOAT32_BYTES * load.trained_values
    in_update = (COPIES_IN_UPDATE - COPIES_OF_TRAINED) * trained
    return TrainingPlan(
        weight_bytes=weight_bytes,
        trained_bytes=COPIES_OF_TRAINED * trained
        + max(0, in_update - activations - logits),
        activation_bytes=activations,
        logit_bytes=logits,
        load=load,
        budget=budget,
    )


def attention_values(config: ModelConfig, load: TrainingLoad) -> int:
    """Numbers that attention keeps for its gradient in a layer, but for the scores."""
    M, D = config.hidden_size, config.head_dim
    H, Hk = config.num_attention_heads, config.num_key_value_heads
    values = (
        2 * M  # the inputs of both norms
        + (H + 2 * Hk) * D  # q, k and v
        + (H + Hk) * D  # rotated q and k
        + H * D  # q in the order of the products
    )
    if load.attention:  # the inputs of q, k and v, and of what follows attention
        values += round((M + H * D) * (1 + dropped_share(load)))
    return load.tokens * values


def expert_values(config: ModelConfig, load: TrainingLoad) -> int:
    """Numbers that experts keep for their gradient in a layer."""
    M, F = config.hidden_size, config.intermediate_size
    padded = padded_rows(config, load)
    values = load.tokens * config.num_experts_per_tok * M  # what they return
    values += padded * 2 * F  # gate and up
    if load.experts:  # the inputs of both products
        values += round(padded * (M + F) * (1 + dropped_share(load)))
    return values


def dropped_share(load: TrainingLoad) -> float:
    """Return what dropout keeps of an input of updates, by its size."""
    return KEPT_OF_DROPOUT if load.dropout else 0.0


def padded_rows(config: ModelConfig, load: TrainingLoad) -> int:
    """Return the rows of all blocks of a layer, as `ExpertBlocks` makes them."""
    size, E = load.rows_of_block, config.num_local_experts
    rows = load.tokens * config.num_experts_per_tok
    return (rows + E * (size - 1)) // size * size


def decoded_product_bytes(config: ModelConfig) -> int:
    """Bytes of the gate and up of all experts of a layer, decoded to float32."""
    M, F = config.hidden_size, config.intermediate_size
    return FLOAT32_BYTES * config.num_local_experts * 2 * M * F


def average_scores(config: ModelConfig, lengths: Sequence[int], *, metal: bool) -> int:
    """Return the scores a head keeps, averaged over layers; a GPU keeps none."""
    if metal:
        return 0
    layers, sliding = len(config.layer_types), config.layer_types.count(SLIDING)
    full = sum(kept_scores(length, None) for length in lengths)
    windowed = sum(kept_scores(length, config.sliding_window) for length in lengths)
    return (sliding * windowed + (layers - sliding) * full) // layers


def kept_scores(length: int, window: int | None) -> int:
    """Return the scores of one document, those of the sink included."""
    step = window or QUERY_BLOCK
    total = 0
    for start in range(0, length, step):
        end = min(length, start + step)
        first = max(0, start - window + 1) if window else 0
        total += (end - start) * (end - first + 1)
    return total


def require_training_fit(plan: TrainingPlan, model: str, advice: str) -> None:
    """Raise MemoryBudgetError unless the plan fits, with the sum and the advice."""
    if plan.fits:
        return
    load = plan.load
    raise MemoryBudgetError(
        f"training `{model}` needs {format_bytes(plan.total_bytes)} "
        f"({format_bytes(plan.weight_bytes)} of weights, "
        f"{format_bytes(plan.trained_bytes)} for the adapter and its optimizer, "
        f"{format_bytes(plan.activation_bytes)} for {load.tokens:,} tokens in "
        f"{load.layers} layers, {format_bytes(plan.logit_bytes)} of logits), but there "
        f"are {format_bytes(plan.budget.bytes)} ({plan.budget.source}): {advice}"
    )
