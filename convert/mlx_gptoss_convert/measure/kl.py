"""KL divergence of a conversion from its source, run layer by layer.

One layer of each model is in memory at a time: the source's, then the other's, which
shares the source's experts if their bytes are equal. Hidden states are on disk between
layers. Embedding and lm_head are read in slices of rows, never as a whole.

Peak memory: one layer of each model (the experts of both only if they differ), one
expert in float32, and the intermediate values of `BATCH_TOKENS` tokens. For
gpt-oss-120b that is 1.8 GB for the layer and about 1 GB for the rest.

Dimensions: B texts, L tokens, M hidden size, N scored positions, V vocabulary.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.files import scratch, storage_errors, temporary_folder
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters.passes import ActiveAdapters, LayerUpdates
from mlx_gptoss.model.attention import Masks
from mlx_gptoss.model.gpt_oss import Block
from mlx_gptoss.model.rope import make_rotation, yarn_periods
from mlx_gptoss_convert.measure.divergence import Divergence, compare_logits
from mlx_gptoss_convert.measure.layers import CheckpointModel, LayeredModel
from mlx_gptoss_convert.measure.report import VerificationReport
from mlx_gptoss_convert.measure.texts import (
    EvaluationText,
    TextBatch,
    conversation_texts,
    file_texts,
    make_batches,
)
from mlx_gptoss_convert.read.checkpoint import ConversionSource, open_source
from mlx_gptoss_convert.read.companions import open_tokenizer
from mlx_gptoss_convert.read.source import Progress, TensorReader

TEXT_TOKENS = 4096  # tokens used of a text file
HARMONY_TEXT = "the bundled Harmony conversations"


class HiddenStates:
    """The residual stream of every model and batch, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, model: int, batch: int) -> Path:
        return self.folder / f"{model}-{batch}.npy"

    def save(self, model: int, batch: int, hidden: np.ndarray) -> None:
        with storage_errors(self.folder):
            np.save(self.path(model, batch), hidden)

    def load(self, model: int, batch: int) -> np.ndarray:
        return np.load(self.path(model, batch))


def diverge(
    teacher: CheckpointModel,
    students: Sequence[LayeredModel],
    texts: Sequence[EvaluationText],
    *,
    progress: Progress | None = None,
) -> list[Divergence]:
    """Run all models on the same texts; return each student's divergence.

    `progress` gets (bytes of the teacher's layers done, bytes of all layers, layer).
    """
    batches = list(make_batches(texts))
    with scratch(temporary_folder()) as folder:
        states = HiddenStates(folder)
        models: list[LayeredModel] = [teacher, *students]
        for number, model in enumerate(models):
            embed_all(model, number, batches, states)
        run_layers(teacher, students, batches, states, progress)
        return [
            compare_heads(teacher, student, number, batches, states)
            for number, student in enumerate(students, start=1)
        ]


def embed_all(
    model: LayeredModel, number: int, batches: Sequence[TextBatch], states: HiddenStates
) -> None:
    ids = np.unique(np.concatenate([batch.ids.reshape(-1) for batch in batches]))
    table = model.embed(ids)
    for place, batch in enumerate(batches):
        states.save(number, place, table[np.searchsorted(ids, batch.ids)])


def run_layers(
    teacher: CheckpointModel,
    students: Sequence[LayeredModel],
    batches: Sequence[TextBatch],
    states: HiddenStates,
    progress: Progress | None,
) -> None:
    config = teacher.checkpoint.config
    layers = range(config.num_hidden_layers)
    sizes = [teacher.layer_bytes(layer) for layer in layers]
    for layer in layers:
        own = teacher.block(layer)
        run_block(config, own, 0, batches, states, LayerAdapter.of(teacher, layer))
        for number, student in enumerate(students, start=1):
            block = student.block(layer, own)
            adapter = LayerAdapter.of(student, layer)
            run_block(config, block, number, batches, states, adapter)
            del block  # before the next one is loaded
        del own
        mx.clear_cache()
        if progress is not None:
            progress(sum(sizes[: layer + 1]), sum(sizes), f"layer {layer}")


class LayerAdapter(NamedTuple):
    """What an adapter adds to one layer, if anything."""

    active: ActiveAdapters | None
    layer: int

    @classmethod
    def of(cls, model: LayeredModel, layer: int) -> "LayerAdapter":
        return cls(model.adapter(layer), layer)

    def for_texts(self, count: int, length: int) -> LayerUpdates | None:
        """Return the updates for a batch of texts of one length."""
        if self.active is None:
            return None
        return self.active.for_rows([length] * count).layer(self.layer)


def run_block(
    config: ModelConfig,
    block: Block,
    number: int,
    batches: Sequence[TextBatch],
    states: HiddenStates,
    adapter: LayerAdapter,
) -> None:
    """Run one layer of one model on the hidden states of every batch."""
    periods = yarn_periods(config)
    for place, batch in enumerate(batches):
        count, length = batch.ids.shape
        rotate = make_rotation(periods, 0, length)
        hidden = mx.array(states.load(number, place))
        updates = adapter.for_texts(count, length)
        out = block(hidden, rotate, Masks(), None, [length], updates=updates)
        states.save(number, place, np.array(out))


def compare_heads(
    teacher: CheckpointModel,
    student: LayeredModel,
    number: int,
    batches: Sequence[TextBatch],
    states: HiddenStates,
) -> Divergence:
    """Compare both models' logits, a slice of the vocabulary at a time."""
    eps = teacher.checkpoint.config.rms_norm_eps

    def final(model: LayeredModel, number: int) -> mx.array:
        """Return the normed states of the scored positions: (N, M)."""
        scored = [
            states.load(number, place)[batch.scored]
            for place, batch in enumerate(batches)
        ]
        return mx.fast.rms_norm(mx.array(np.concatenate(scored)), model.norm(), eps)

    before, after = final(teacher, 0), final(student, number)
    targets = np.concatenate([batch.targets for batch in batches])
    slices = zip(teacher.head(), student.head(), strict=True)
    return compare_logits(
        targets,
        ((before @ mx.array(a).T, after @ mx.array(b).T) for a, b in slices),
    )


def add_divergence(
    report: VerificationReport,
    folder: Path,
    against: Path,
    *,
    text: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Measure `folder` against its source, on `text` or the bundled conversations.

    Adds the divergence to `report`, the result of `verify`, which also lists the
    experts that are equal. Both sides may have any form that can be converted: weights
    that MLX does not compute are decoded. Raises ConversionError for an unusable text.
    """
    source, made = open_source(against), open_source(folder)
    found = measure_divergence(
        source.checkpoint,
        made.checkpoint,
        choose_texts(source, text),
        shared=report.same_experts,
        progress=progress,
    )
    label = HARMONY_TEXT if text is None else text.name
    report.divergence = {"text": label, **found.as_dict()}


def choose_texts(source: ConversionSource, text: Path | None) -> list[EvaluationText]:
    """Encode `text`, or the bundled conversations, with the tokenizer of `source`."""
    tokenizer = open_tokenizer(source.files, source.checkpoint.folder)
    if text is None:
        return conversation_texts(tokenizer)
    first = source.checkpoint.raw_config.get("bos_token_id")
    first = first if type(first) is int else None
    return file_texts(text, tokenizer, first=first, limit=TEXT_TOKENS)


def measure_divergence(
    source: Checkpoint,
    made: Checkpoint,
    texts: Sequence[EvaluationText],
    *,
    shared: Collection[str] = (),
    progress: Progress | None = None,
) -> Divergence:
    """Return the divergence of `made` from `source` on `texts`.

    `shared` are packed paths of experts known to be equal byte for byte; they are
    loaded once.
    """
    with TensorReader() as left, TensorReader() as right:
        teacher = CheckpointModel(source, left)
        student = CheckpointModel(made, right, shared=shared)
        return diverge(teacher, [student], texts, progress=progress)[0]
