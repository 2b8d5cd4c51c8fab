"""Two trainers behind one interface: ours and that of `mlx_lm.lora`.

An engine is opened on a folder. It takes batches of token ids and reports seconds and
loss of each step; where the batches come from is its caller's.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, OURS, dtype_name
from mlx_gptoss.diagnostics.bench.tune_results import DECODED, PACKED, TrainingWork
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import describe_checkpoint
from mlx_gptoss.memory import device_budget, limit_budget
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.workloads.tune.batches import PackedTokens, TrainingBatch
from mlx_gptoss.workloads.tune.decoded import decode_model
from mlx_gptoss.workloads.tune.documents import TrainingDocument
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.planning import BatchSize, TunePlanner, multiplies_fast
from mlx_gptoss.workloads.tune.targets import target_paths
from mlx_gptoss.workloads.tune.trainer import Trainer

LEARNING_RATE = 1e-4
SCALE = 2.0  # of updates
KEYS = {  # of mlx-lm, by target
    "attention": tuple(f"self_attn.{x}_proj" for x in "qkvo"),
    "router": ("mlp.router",),
    "experts": tuple(f"mlp.experts.{x}_proj" for x in ("gate", "up", "down")),
}
FOREVER = 10**9  # steps

Report = Callable[[float, float], None]  # seconds of a step, and its loss


class TrainingEngine(Protocol):
    """The interface of an engine."""

    package: str
    dtype: str
    weights: str

    @property
    def planned_memory(self) -> int | None: ...

    def train(self, batches: Iterable[np.ndarray], report: Report) -> None:
        """Make a step on each batch, ids (rows, tokens + 1), and report it."""
        ...


class OwnTraining:
    """This package: its planner, its trainer."""

    package = f"mlx_gptoss {version('mlx-gptoss')}"

    def __init__(
        self, folder: Path, options: LoadOptions, work: TrainingWork, decode: str
    ) -> None:
        compute = options.compute_dtype
        checkpoint = open_checkpoint(folder, strict=options.strict)
        tuning = TuneOptions(target=work.targets, rank=work.rank, decode=decode)
        fast = multiplies_fast(compute)
        planner = TunePlanner(
            describe_checkpoint(checkpoint, compute.size, str(folder)),
            tuning,
            limit_budget(device_budget(), options.memory),
            can_decode=fast and bool(checkpoint.structure.quantization),
            fast_blas=fast,
        )
        plan = planner.plan([BatchSize((work.tokens,) * work.rows, work.learned)])
        planner.require_fit(plan)
        self._work = work
        self.dtype = dtype_name(compute)
        self.weights = DECODED if plan.load.decoded else PACKED
        self.planned_memory = plan.array_bytes
        model = load_model(checkpoint, dtype=compute)
        if plan.load.decoded:
            decode_model(model)
        updates = TrainableUpdates(
            checkpoint.config,
            dict.fromkeys(target_paths(checkpoint.config, tuning), work.rank),
            scale=SCALE,
            checkpointed=plan.load.checkpointed,
        )
        updates.attach(model)
        self._trainer = Trainer(
            model,
            updates,
            weight_decay=tuning.weight_decay,
            clip=tuning.clip,
            step_bytes=plan.step_bytes,
        )

    def train(self, batches: Iterable[np.ndarray], report: Report) -> None:
        mx.reset_peak_memory()
        for ids in batches:
            began = time.perf_counter()
            result = self._trainer.step([self._packed(ids)], LEARNING_RATE)
            report(time.perf_counter() - began, result.loss)

    def _packed(self, ids: np.ndarray) -> PackedTokens:
        learned = np.arange(ids.shape[1]) >= self._work.prompt
        documents = tuple(TrainingDocument(row, learned) for row in ids)
        return TrainingBatch(documents, 0, 0, (0, 1)).packed()


class MlxLmTraining:
    """Stock mlx-lm: its loader, its LoRA layers and its training loop."""

    package = f"mlx-lm {version('mlx-lm')}"
    weights = PACKED
    planned_memory = None

    def __init__(
        self, folder: Path, options: LoadOptions, work: TrainingWork, _: str
    ) -> None:
        from mlx_lm.tuner.utils import linear_to_lora_layers
        from mlx_lm.utils import load_model as load_stock

        self._work = work
        self._model: Any
        self._model, _config = load_stock(folder, lazy=True)
        self._model.set_dtype(options.compute_dtype)
        mx.eval(self._model.parameters())
        self.dtype = dtype_name(options.compute_dtype)
        self._model.freeze()
        keys = [key for target in work.targets for key in KEYS[target]]
        lora = {"rank": work.rank, "scale": SCALE, "dropout": 0.0, "keys": keys}
        linear_to_lora_layers(self._model, len(self._model.layers), lora)

    def train(self, batches: Iterable[np.ndarray], report: Report) -> None:
        from mlx_lm.tuner.callbacks import TrainingCallback
        from mlx_lm.tuner.trainer import TrainingArgs, train

        class Reports(TrainingCallback):
            def on_train_loss_report(self, train_info: Any) -> None:
                seconds = 1 / train_info["iterations_per_second"]
                report(seconds, train_info["train_loss"])

        mx.reset_peak_memory()
        with tempfile.TemporaryDirectory() as place:
            train(
                model=self._model,
                optimizer=optim.AdamW(learning_rate=LEARNING_RATE),
                train_dataset=[],
                args=TrainingArgs(
                    batch_size=self._work.rows,
                    iters=FOREVER,
                    steps_per_report=1,
                    steps_per_eval=FOREVER,
                    steps_per_save=FOREVER,
                    adapter_file=str(Path(place) / "adapters.safetensors"),
                ),
                iterate_batches=lambda **_: self._stock_batches(batches),
                training_callback=Reports(),
            )

    def _stock_batches(
        self, batches: Iterable[np.ndarray]
    ) -> Iterator[tuple[mx.array, mx.array]]:
        """Yield ids, and where the learned tokens of each row begin and end."""
        for ids in batches:
            rows, length = ids.shape
            yield mx.array(ids), mx.array([[self._work.prompt, length]] * rows)


TRAINING_ENGINES: dict[str, Callable[..., TrainingEngine]] = {
    OURS: OwnTraining,
    MLX_LM: MlxLmTraining,
}
