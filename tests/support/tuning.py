"""A tiny model in training, and batches of random documents without files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.files import draft
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.model.gpt_oss import GptOss
from mlx_gptoss.workloads.tune.batches import PackedTokens, TrainingBatch
from mlx_gptoss.workloads.tune.documents import TrainingDocument
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.saved_state import RunState, read_state
from mlx_gptoss.workloads.tune.targets import target_paths
from mlx_gptoss.workloads.tune.trainer import Trainer
from mlx_gptoss.workloads.tune.training_run import TrainingRun
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors

TINY = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "vocab_size": 41,
}


def tiny_model(**overrides: Any) -> GptOss:
    config = hf_config(**{**TINY, **overrides})
    return build(config, random_tensors(config, seed=5))


def updates_of(model: GptOss, options: TuneOptions, **more: Any) -> TrainableUpdates:
    """Return updates whose B is not zero, so that every gradient is there."""
    config: ModelConfig = model.config
    ranks = dict.fromkeys(target_paths(config, options), options.rank)
    updates = TrainableUpdates(
        config,
        ranks,
        scale=options.scale,
        seed=options.seed,
        dropout=options.dropout,
        **more,
    )
    for key, pair in zip(
        mx.random.split(mx.random.key(9), len(ranks)),
        updates.updates.values(),
        strict=True,
    ):
        pair["b"] = 0.05 * mx.random.normal(pair["b"].shape, key=key)
    mx.eval(updates.parameters())
    return updates


def document(
    length: int, seed: int, vocab_size: int = TINY["vocab_size"]
) -> TrainingDocument:
    """Return a document whose second half is learned."""
    ids = np.random.default_rng(seed).integers(0, vocab_size, length).astype(np.int32)
    return TrainingDocument(ids, np.arange(length) >= max(1, length // 2))


def packed(*documents: TrainingDocument) -> PackedTokens:
    return TrainingBatch(documents, 0, 0, (0, 1)).packed()


@dataclass
class ListedBatches:
    """Batches that are the same in every epoch, such as a run takes them."""

    batches: Sequence[Sequence[TrainingDocument]]

    def count(self, epoch: int = 0) -> int:
        return len(self.batches)

    def batch(self, epoch: int, index: int) -> TrainingBatch:
        last = index + 1 == len(self.batches)
        following = (epoch + 1, 0) if last else (epoch, index + 1)
        return TrainingBatch(tuple(self.batches[index]), epoch, index, following)


DATA = ListedBatches([[document(9, n), document(14, n + 50)] for n in range(5)])
VALIDATION = ListedBatches([[document(16, 99)]])


def training_run(
    folder: Path,
    options: TuneOptions,
    *,
    data: ListedBatches = DATA,
    validation: ListedBatches | None = VALIDATION,
    **more: Any,
) -> TrainingRun:
    """Return a run of a tiny model in a folder, or the one in it that goes on.

    Every kept adapter is the file `kept.npz`, with its step.
    """
    model = tiny_model()
    updates = updates_of(model, options)
    updates.attach(model)
    trainer = Trainer(model, updates, weight_decay=0.01, clip=options.clip)
    saved = read_state(folder)
    if saved is not None:
        trainer.restore(saved.trained, saved.optimizer)

    def keep(state: RunState) -> None:
        arrays: Any = {name: np.array(x) for name, x in trainer.trained.items()}
        with draft(folder / "kept.npz") as place:
            np.savez(place, step=state.step, **arrays)

    return TrainingRun(
        folder=folder,
        options=options,
        data=data,
        trainer=trainer,
        state=saved.state if saved else RunState(),
        keep=keep,
        validation=validation,
        **more,
    )


def main(folder: str, steps: str, save_every: str) -> None:
    """Train in a process of its own, and print each step that is done."""
    options = TuneOptions(
        rank=2, steps=int(steps), save_every=int(save_every), learning_rate=0.01
    )
    training_run(
        Path(folder),
        options,
        report=lambda progress: print(progress.step, flush=True),
    ).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
