"""KL divergence of a conversion from its source, run layer by layer.

One layer of each model is in memory at a time: the source's, then the other's, which
takes the source's experts where their bytes are the same. Hidden states lie on disk
between layers. The vocabulary goes in slices of rows, so neither the embedding nor
lm_head is ever whole.

Peak memory: one layer of each model (the experts of both only where they differ), one
expert in float32, and the intermediate values of `BATCH_TOKENS` tokens. For
gpt-oss-120b that is 1.8 GB for the layer and about 1 GB for the rest.

Dimensions: B passages, L tokens, M hidden size, N counted positions, V vocabulary.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.files import scratch, storage_errors, temporary_folder
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
from mlx_gptoss_convert.read.checkpoint import find_gguf_files
from mlx_gptoss_convert.read.source import Progress, TensorReader

TEXT_TOKENS = 4096  # of a text file; the rest of it is left out
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
    passages: Sequence[EvaluationText],
    *,
    progress: Progress | None = None,
) -> list[Divergence]:
    """Run all models over the same passages; return each student's divergence.

    `progress` is told (bytes of the teacher's layers done, bytes of all, what).
    """
    given = list(make_batches(passages))
    with scratch(temporary_folder()) as folder:
        states = HiddenStates(folder)
        models: list[LayeredModel] = [teacher, *students]
        for number, model in enumerate(models):
            embed_all(model, number, given, states)
        run_layers(teacher, students, given, states, progress)
        return [
            compare_heads(teacher, student, number, given, states)
            for number, student in enumerate(students, start=1)
        ]


def embed_all(
    model: LayeredModel, number: int, given: Sequence[TextBatch], states: HiddenStates
) -> None:
    ids = np.unique(np.concatenate([batch.ids.reshape(-1) for batch in given]))
    table = model.embed(ids)
    for place, batch in enumerate(given):
        states.save(number, place, table[np.searchsorted(ids, batch.ids)])


def run_layers(
    teacher: CheckpointModel,
    students: Sequence[LayeredModel],
    given: Sequence[TextBatch],
    states: HiddenStates,
    progress: Progress | None,
) -> None:
    config = teacher.checkpoint.config
    layers = range(config.num_hidden_layers)
    sizes = [teacher.layer_bytes(layer) for layer in layers]
    for layer in layers:
        own = teacher.block(layer)
        run_block(teacher, own, 0, given, states)
        for number, student in enumerate(students, start=1):
            block = student.block(layer, own)
            run_block(teacher, block, number, given, states)
            del block  # before the next one is loaded
        del own
        mx.clear_cache()
        if progress is not None:
            progress(sum(sizes[: layer + 1]), sum(sizes), f"layer {layer}")


def run_block(
    teacher: CheckpointModel,
    block: Block,
    number: int,
    given: Sequence[TextBatch],
    states: HiddenStates,
) -> None:
    """Take one model's hidden states of every batch through one layer."""
    periods = yarn_periods(teacher.checkpoint.config)
    for place, batch in enumerate(given):
        rotate = make_rotation(periods, 0, batch.ids.shape[1])
        hidden = mx.array(states.load(number, place))
        states.save(number, place, np.array(block(hidden, rotate, Masks(), None)))


def compare_heads(
    teacher: CheckpointModel,
    student: LayeredModel,
    number: int,
    given: Sequence[TextBatch],
    states: HiddenStates,
) -> Divergence:
    """Unembed both models' final states, a slice of the vocabulary at a time."""
    eps = teacher.checkpoint.config.rms_norm_eps

    def final(model: LayeredModel, number: int) -> mx.array:
        """Normed states of the counted positions: (N, M)."""
        counted = [
            states.load(number, place)[batch.scored]
            for place, batch in enumerate(given)
        ]
        return mx.fast.rms_norm(mx.array(np.concatenate(counted)), model.norm(), eps)

    before, after = final(teacher, 0), final(student, number)
    targets = np.concatenate([batch.targets for batch in given])
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

    `report` is what `verify` found of the two; it says which experts are the same.
    Raises ConversionError for a text that cannot be used, and for a GGUF.
    """
    refuse_gguf(against)
    refuse_gguf(folder)
    source, made = open_checkpoint(against), open_checkpoint(folder)
    passages = choose_texts(source, text)
    found = measure_divergence(
        source, made, passages, shared=report.same_experts, progress=progress
    )
    said = HARMONY_TEXT if text is None else text.name
    report.divergence = {"text": said, **found.as_dict()}


def refuse_gguf(path: Path) -> None:
    """Raise ConversionError for a model that is not read as it is run."""
    if find_gguf_files(path):
        raise ConversionError(
            f"`{path}` is a GGUF, which cannot be run here: convert it with `--recipe "
            "lossless`, verify that, and give it with `--kl`"
        )


def choose_texts(checkpoint: Checkpoint, text: Path | None) -> list[EvaluationText]:
    """Encode `text`, or the bundled conversations, for this checkpoint."""
    tokenizer = Tokenizer.open(checkpoint.folder)
    if text is None:
        return conversation_texts(tokenizer)
    first = checkpoint.raw_config.get("bos_token_id")
    first = first if type(first) is int else None
    return file_texts(text, tokenizer, first=first, limit=TEXT_TOKENS)


def measure_divergence(
    source: Checkpoint,
    made: Checkpoint,
    passages: Sequence[EvaluationText],
    *,
    shared: Collection[str] = (),
    progress: Progress | None = None,
) -> Divergence:
    """Return the divergence of `made` from `source` on `passages`.

    `shared` are packed paths of experts known to be the same, byte for byte: they are
    loaded once.
    """
    with TensorReader() as left, TensorReader() as right:
        teacher = CheckpointModel(source, left)
        student = CheckpointModel(made, right, shared=shared)
        return diverge(teacher, [student], passages, progress=progress)[0]
