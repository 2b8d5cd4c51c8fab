"""Load a checkpoint as planned: the memory plan, and the storage of experts.

Everything is decided from headers and sizes before a weight is read.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.checkpoint import require_kind
from mlx_gptoss.checkpoint.expert_records import (
    expert_bytes_in_memory,
    expert_records,
    explain_refusal,
)
from mlx_gptoss.checkpoint.folder import read_json
from mlx_gptoss.checkpoint.load import (
    Progress,
    load_model,
    load_parameters,
    stored_down_norms,
)
from mlx_gptoss.checkpoint.mapping import PageSharing, choose_page_sharing
from mlx_gptoss.engine.adapter_memory import adapter_dtype, measure_adapters
from mlx_gptoss.engine.hit_curve import load_hit_curve
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import (
    Budget,
    Plan,
    PlannedModel,
    device_budget,
    plan_storage,
    require_fit,
)
from mlx_gptoss.memory.saved_probe import describe_this_machine
from mlx_gptoss.model.experts.reader import ExpertReader
from mlx_gptoss.model.experts.storage import ExpertStorage, Placement, stream_experts
from mlx_gptoss.model.experts.write_check import in_place_writes_work
from mlx_gptoss.model.gpt_oss import GptOss
from mlx_gptoss.model.residual import fit_residual

# MLX keeps freed memory for reuse; expert pools make better use of that memory.
MLX_CACHE_BYTES_STREAMED = 256 * 2**20


def plan_checkpoint(
    checkpoint: Checkpoint, options: LoadOptions, *, budget: Budget | None = None
) -> Plan:
    """Plan the memory of a checkpoint; `budget` is by default this device's.

    Raises ConfigError if its experts are to be read from disk and cannot be, and for a
    context longer than the model supports; CheckpointError and HubError for adapters
    that cannot be loaded with it.
    """
    options.check_context(checkpoint.config)
    described = describe_checkpoint(checkpoint, options.compute_dtype.size)
    return plan_storage(
        with_adapters(described, options),
        options,
        budget or device_budget(),
        machine=describe_this_machine(),
        curve=load_hit_curve(options.trace, checkpoint.config),
    )


def with_adapters(
    model: PlannedModel, options: LoadOptions, *, float_bytes: int | None = None
) -> PlannedModel:
    """Count the adapters of `options` into the sizes of a model.

    `float_bytes` are those of their values, by default on this device.
    """
    size = measure_adapters(
        options.adapter_sources,
        model.config,
        offline=options.offline,
        float_bytes=float_bytes or adapter_dtype(options.compute_dtype).size,
    )
    return replace(model, adapter_bytes=size)


def describe_checkpoint(
    checkpoint: Checkpoint, float_bytes: int, name: str = ""
) -> PlannedModel:
    """Describe a checkpoint to the planner, from its headers."""
    return PlannedModel(
        name,
        checkpoint.config,
        checkpoint.loaded_bytes_by_part(float_bytes),
        float_bytes,
        expert_bytes=expert_bytes_in_memory(checkpoint, float_bytes),
        refusal=explain_refusal(checkpoint),
    )


def load_planned(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    dtype: mx.Dtype,
    progress: Progress | None = None,
    reader: ExpertReader | None = None,
    share: PageSharing | None = None,
    in_place: bool | None = None,
) -> tuple[GptOss, ExpertStorage | None]:
    """Load a model as planned; the caller closes the returned storage, if any.

    `share` adopts pages and `in_place` fills slots through their memory; None asks the
    device. Peak memory: what the plan says of weights, and a few MiB a thread.
    """
    if not plan.slots:
        whole = load_model(checkpoint, dtype=dtype, progress=progress, share=share)
        return whole, None
    model = GptOss(checkpoint.config, checkpoint.structure)
    placement = Placement(plan.slots)
    storage = stream_experts(
        model,
        checkpoint.structure,
        placement,
        expert_records(checkpoint),
        dtype=dtype,
        reader=reader,
        in_place=in_place_writes_work() if in_place is None else in_place,
    )
    try:
        storage.limit_cache(MLX_CACHE_BYTES_STREAMED)
        weights = load_parameters(
            checkpoint,
            dtype=dtype,
            progress=progress,
            select=lambda x: not placement.is_pooled(x.name),
            share=share or choose_page_sharing(),
        )
        model.load_weights(list(weights.items()), strict=True)
        if dtype == mx.float16:
            norms = partial(stored_down_norms, checkpoint)
            fit_residual(model.model, checkpoint.config, norms)
    except BaseException:
        storage.close()
        raise
    return model, storage


def download_check(model: str, options: LoadOptions) -> Callable[[Path, int], None]:
    """Return a check for a `config.json` and the bytes of the weight files.

    It raises MemoryBudgetError if the model could not be loaded once it is here, and
    ConfigError for a config that would be refused then; opening it will warn.
    """

    def check(config_file: Path, weight_bytes: int) -> None:
        raw = read_json(config_file)
        config = ModelConfig.from_dict(raw, strict=options.strict, quiet=True)
        require_kind(config, False, model)
        options.check_context(config)
        sizes = PlannedModel(model, config, {"weights": weight_bytes})
        require_fit(plan_storage(sizes, options, device_budget()), config, model)

    return check


def raise_if_stopped(stopped: threading.Event, progress: Progress | None) -> Progress:
    """Wrap `progress` so that it ends an interrupted load at its next call."""

    def report(done: int, total: int) -> None:
        if stopped.is_set():
            raise InterruptedError("loading was interrupted")
        if progress is not None:
            progress(done, total)

    return report
