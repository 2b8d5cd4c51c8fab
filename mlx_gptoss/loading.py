"""What is decided before a weight is read: dtype, storage of experts, the plan.

Knows headers and sizes; reads no weights.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.files import read_json
from mlx_gptoss.config import ModelConfig
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.linear import on_gpu
from mlx_gptoss.memory import Plan, device_budget, estimate, require_fit

Progress = Callable[[int, int], None]  # done, total

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
EXPERTS = ("auto", "resident")
LATER_EXPERTS = ("hybrid", "streamed")


def choose_dtype(name: str | None) -> mx.Dtype:
    """Return the compute dtype by name; None asks the device."""
    if name is None:
        return mx.bfloat16 if on_gpu() else mx.float32
    if name == "float16":
        raise ConfigError(
            "dtype `float16` cannot hold gpt-oss: activations overflow it at layer 35 "
            "of the 120b; use bfloat16 or float32"
        )
    if name not in DTYPES:
        raise ConfigError(f"dtype `{name}` is unknown: use bfloat16 or float32")
    return DTYPES[name]


def check_experts(experts: str) -> None:
    """Refuse ways to store experts that are unknown or not there yet."""
    if experts in LATER_EXPERTS:
        raise ConfigError(
            f"experts `{experts}` is not available yet: use `resident`, or convert to "
            "a smaller recipe with `mlx-gptoss convert`"
        )
    if experts not in EXPERTS:
        known = ", ".join(EXPERTS)
        raise ConfigError(f"experts `{experts}` is unknown: use one of {known}")


def check_context(config: ModelConfig, context: int | None) -> None:
    """Refuse a context longer than the model was made for."""
    longest = config.max_position_embeddings
    if context is not None and context > longest:
        raise ConfigError(
            f"a context of {context:,} tokens is more than the {longest:,} that this "
            "model knows: ask for less, or leave it out"
        )


def plan_resident(
    checkpoint: Checkpoint,
    dtype: mx.Dtype,
    memory: str | int | None,
    context: int | None,
) -> Plan:
    """Plan the model in memory whole, at `context` tokens."""
    check_context(checkpoint.config, context)
    return estimate(
        checkpoint.config,
        checkpoint.loaded_bytes_by_part(dtype.size),
        budget=device_budget(memory),
        context=context,
        float_bytes=dtype.size,
    )


def fit_before_download(
    model: str,
    memory: str | int | None,
    context: int | None,
    *,
    strict: bool = False,
) -> Callable[[Path, int], None]:
    """Return a check of a config.json and the bytes of its weight files.

    It raises MemoryBudgetError if the model could not be loaded once it is here, and
    ConfigError for a config that would be refused then; opening it will warn.
    """

    def check(config_file: Path, weight_bytes: int) -> None:
        raw = read_json(config_file)
        config = ModelConfig.from_dict(raw, strict=strict, quiet=True)
        parts = {"weights": weight_bytes}
        check_context(config, context)
        budget = device_budget(memory)
        require_fit(
            estimate(config, parts, budget=budget, context=context), config, model
        )

    return check


def until(stopped: threading.Event, progress: Progress | None) -> Progress:
    """Wrap `progress` so that an interrupted load ends at its next report."""

    def report(done: int, total: int) -> None:
        if stopped.is_set():
            raise InterruptedError("loading was interrupted")
        if progress is not None:
            progress(done, total)

    return report
