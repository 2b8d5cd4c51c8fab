"""The options of a training run: one value, checked when it is made.

Knows no model: options that depend on one are checked where the model is opened.
"""

from dataclasses import asdict, dataclass
from typing import Any

from mlx_gptoss.errors import ConfigError

ATTENTION, ROUTER, EXPERTS, LM_HEAD, ALL = (
    "attention",
    "router",
    "experts",
    "lm_head",
    "all",
)
TARGETS = (ATTENTION, ROUTER, EXPERTS, LM_HEAD, ALL)
TARGETS_OF_ALL = (ATTENTION, ROUTER, EXPERTS)
AUTO, ON, OFF = "auto", "on", "off"
CHOICES = (AUTO, ON, OFF)


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How an adapter is trained.

    target: which weights get an update: `attention`, `router`, `experts`, `lm_head`;
        `all` is the first three.
    rank: rank of every update.
    alpha: updates are scaled by `alpha / rank`; None means twice the rank.
    layers: train only so many of the upper layers; None means all.
    steps, epochs: how long to train, in optimizer steps or in passes over the data;
        `steps` takes precedence.
    batch_tokens: most tokens of the documents computed at once. A longer document is
        a batch of its own.
    accumulate: batches per optimizer step; their gradients are added.
    learning_rate: its peak, reached after `warmup` steps; it then falls along a cosine
        to `final_rate` of the peak.
    warmup: None means a tenth of all steps.
    clip: most norm of the gradient over all parameters; 0 does not clip.
    dropout: share of the values that an update's A multiplies which is dropped, in
        training only; the others are scaled by 1 / (1 - dropout).
    seed: of the first weights, of the order of the examples, and of what is dropped.
    checkpointing: compute each layer again for its gradient instead of keeping its
        activations; `auto` does so if they would not fit.
    decode: keep quantized weights decoded to float32; `auto` does so on a CPU if they
        fit.
    evaluate_every, save_every: in steps; None means ten times a run, and whenever the
        run is evaluated.
    patience: stop after so many evaluations without a lower validation loss.

    Raises ConfigError for a value that no model allows.
    """

    target: tuple[str, ...] = (ATTENTION,)
    rank: int = 8
    alpha: float | None = None
    layers: int | None = None
    steps: int | None = None
    epochs: int = 1
    batch_tokens: int = 2048
    accumulate: int = 1
    learning_rate: float = 2e-4
    final_rate: float = 0.1
    warmup: int | None = None
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float = 0.0
    seed: int = 0
    checkpointing: str = AUTO
    decode: str = AUTO
    evaluate_every: int | None = None
    save_every: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if not self.target or not set(self.target) <= set(TARGETS):
            known = ", ".join(TARGETS)
            given = ",".join(self.target)
            raise ConfigError(f"target `{given}` is unknown: use some of {known}")
        for name in ("checkpointing", "decode"):
            if getattr(self, name) not in CHOICES:
                known = ", ".join(CHOICES)
                raise ConfigError(
                    f"{name} `{getattr(self, name)}` is unknown: use one of {known}"
                )
        for name in ("rank", "epochs", "batch_tokens", "accumulate"):
            _require_positive(name, getattr(self, name))
        for name in ("layers", "steps", "evaluate_every", "save_every", "patience"):
            _require_positive(name, getattr(self, name))
        _require_positive("learning_rate", self.learning_rate)
        _require_positive("alpha", self.alpha)
        for name in ("warmup", "clip", "weight_decay"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: use 0 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"dropout is {self.dropout}: use a share from 0 to below 1"
            )

    @property
    def scale(self) -> float:
        """The factor on every update."""
        return (2 * self.rank if self.alpha is None else self.alpha) / self.rank

    @property
    def targets(self) -> frozenset[str]:
        """The kinds of weights that get an update, without `all`."""
        found = set(self.target)
        if ALL in found:
            found = (found - {ALL}) | set(TARGETS_OF_ALL)
        return frozenset(found)

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self) | {"target": list(self.target)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "TuneOptions":
        """Read what `as_json` returned."""
        return cls(**{**found, "target": tuple(found["target"])})


def _require_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigError(f"{name} is {value}: use more than 0")
