"""`adapter_config.json` of PEFT and of mlx-lm: the scale of each update.

Refuses settings whose updates are not low-rank, naming them. Knows no tensors.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint.adapters.recognize import LORA
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.file_names import ADAPTER_CONFIG

MERGE_IN_PEFT = (
    "merge it into its model with PEFT (`merge_and_unload()`, then `save_pretrained`) "
    "and give that folder"
)
# Settings of PEFT that are not read unless they are empty, and what they mean.
REFUSED = {
    "use_dora": "it is DoRA, which also scales the weights",
    "modules_to_save": "it has whole modules of its own",
    "trainable_token_indices": "it has vocabulary rows of its own",
    "lora_bias": "it changes biases",
    "fan_in_fan_out": "its matrices are transposed",
    "layer_replication": "it repeats layers of the model",
    "alora_invocation_tokens": "it is aLoRA, which starts in the middle of a prompt",
    "use_qalora": "it is QALoRA, which pools its inputs",
    "use_bdlora": "it is block-diagonal",
    "arrow_config": "it is Arrow, which routes between adapters",
    "kasa_config": "it is KaSA, which truncates the weights",
    "monteclora_config": "it is MonteCLoRA, which samples its weights",
}
# Ways to start that change the weights of the model itself.
CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class PeftSettings:
    """What an `adapter_config.json` of PEFT says about ranks and scales."""

    path: Path
    rank: int
    alpha: float
    uses_rslora: bool
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    targets: Any = None  # `target_modules`: names, or a regular expression

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], path: Path) -> "PeftSettings":
        """Check the settings. Raises CheckpointError for the first that is not read."""
        check_peft(raw, path)
        return cls(
            path=path,
            rank=int(read_number(raw, "r", path)),
            alpha=read_number(raw, "lora_alpha", path),
            uses_rslora=raw.get("use_rslora") is True,
            rank_pattern={
                key: int(value)
                for key, value in read_pattern(raw, "rank_pattern", path).items()
            },
            alpha_pattern=read_pattern(raw, "alpha_pattern", path),
            targets=raw.get("target_modules"),
        )

    def scale(self, names: tuple[str, ...], rank: int) -> float:
        """Return alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732).

        `names` are what PEFT may call the module. Raises CheckpointError if its tensors
        have another rank than the settings.
        """
        expected = find_pattern(self.rank_pattern, names, self.rank)
        if rank != expected:
            raise CheckpointError(
                f"`{names[0]}` has rank {rank}, `{self.path}` says {expected}: take "
                f"the `{ADAPTER_CONFIG}` that was saved with these weights"
            )
        alpha = find_pattern(self.alpha_pattern, names, self.alpha)
        return alpha / math.sqrt(rank) if self.uses_rslora else alpha / rank


def check_peft(raw: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError for what is not a plain LoRA on an unchanged model."""
    kind = raw.get("peft_type", LORA)
    if kind != LORA:
        raise CheckpointError(
            f"`{path}` has `peft_type` = {kind!r}, only {LORA} adapters are read: "
            f"{MERGE_IN_PEFT}"
        )
    for key, meaning in REFUSED.items():
        if raw.get(key):
            raise CheckpointError(
                f"`{path}` has `{key}` = {raw[key]!r:.60} ({meaning}), which is not "
                f"read: {MERGE_IN_PEFT}"
            )
    bias = raw.get("bias", "none")
    if bias != "none":
        raise CheckpointError(
            f"`{path}` has `bias` = {bias!r} (it changes biases), which is not read: "
            f"{MERGE_IN_PEFT}"
        )
    start = str(raw.get("init_lora_weights", True)).lower()
    if start.startswith(CHANGED_BASES):
        raise CheckpointError(
            f"`{path}` has `init_lora_weights` = {start!r}, which changes the model it "
            "starts from: save it with `path_initial_model_for_weight_conversion`"
        )


def read_number(raw: Mapping[str, Any], key: str, path: Path) -> float:
    return check_number(raw.get(key), f"`{path}` has `{key}`")


def read_pattern(raw: Mapping[str, Any], key: str, path: Path) -> dict[str, float]:
    found = raw.get(key) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"`{path}` has `{key}` = {found!r:.60}, expected a table")
    return {
        name: check_number(value, f"`{path}` has `{key}.{name}`")
        for name, value in found.items()
    }


def check_number(value: Any, where: str) -> float:
    """Return a finite number above 0."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value <= 0:
        raise CheckpointError(
            f"{where} = {value!r:.40}, expected a number above 0: save the adapter "
            "again"
        )
    return value


def find_pattern(
    patterns: Mapping[str, float], names: tuple[str, ...], default: float
) -> float:
    """Return the value of the first pattern that one of the names ends with."""
    for pattern, value in patterns.items():
        try:
            end = re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise CheckpointError(
                f"`{ADAPTER_CONFIG}` has the pattern `{pattern}`, which is no regular "
                f"expression ({error}): save the adapter again"
            ) from error
        if any(end.match(name) for name in names):
            return value
    return default


def read_mlx_scale(raw: Mapping[str, Any], path: Path) -> float:
    """Return the scale in an `adapter_config.json` of mlx-lm, which has no alpha.

    Raises CheckpointError for other fine-tunes than LoRA.
    """
    kind = raw.get("fine_tune_type", "lora")
    if kind != "lora":
        what = "DoRA, which also scales the weights" if kind == "dora" else "no LoRA"
        raise CheckpointError(
            f"`{path}` has `fine_tune_type` = {kind!r} ({what}), which is not read: "
            "merge it with `mlx_lm.fuse --dequantize` and give that folder"
        )
    found = raw.get("lora_parameters")
    if not isinstance(found, dict) or "scale" not in found:
        raise CheckpointError(
            f"`{path}` has no `lora_parameters.scale`: take the `{ADAPTER_CONFIG}` "
            "that was saved with these weights"
        )
    return check_number(found["scale"], f"`{path}` has `lora_parameters.scale`")
