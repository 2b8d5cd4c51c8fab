"""Prepare a run: check its options, plan the memory, find the state.

Everything that can be refused is refused here, before a weight is read.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.adapters import StoredAdapter
from mlx_gptoss.checkpoint.adapters.digest import config_digest
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import describe_checkpoint
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import Budget, device_budget, limit_budget
from mlx_gptoss.memory.plan import AUTO, RESIDENT
from mlx_gptoss.memory.training import TrainingPlan
from mlx_gptoss.workloads.tune.batches import TrainingBatches
from mlx_gptoss.workloads.tune.corpus import TuneCorpus
from mlx_gptoss.workloads.tune.folder import resume_folder
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.planning import BatchSize, TunePlanner, multiplies_fast
from mlx_gptoss.workloads.tune.run_record import RunRecord
from mlx_gptoss.workloads.tune.saved_state import SavedTraining
from mlx_gptoss.workloads.tune.settings import CorpusSettings
from mlx_gptoss.workloads.tune.start import open_start
from mlx_gptoss.workloads.tune.steps import steps_in

PLANNED_EPOCHS = 10  # whose batches are looked through for the largest
SAMPLE_BYTES = 64


@dataclass(frozen=True)
class TuneRequest:
    """What is to be trained: the model as named, its folder, the data, the output.

    start: the folder of an adapter whose updates are trained on; None starts a new one.
    """

    model: str
    model_folder: Path
    data: Path
    folder: Path
    options: TuneOptions
    settings: CorpusSettings
    load_options: LoadOptions
    valid: Path | None = None
    start: Path | None = None
    resume: bool = False


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run that may start: nothing was written yet.

    validation is None if no documents are kept for it; start is the adapter that is
    trained on, None for a new one; saved is the state to go on from, if any.
    """

    request: TuneRequest
    config: ModelConfig
    corpus: TuneCorpus
    data: TrainingBatches
    validation: TrainingBatches | None
    plan: TrainingPlan
    record: RunRecord
    start: StoredAdapter | None
    saved: SavedTraining | None

    @property
    def options(self) -> TuneOptions:
        return self.request.options

    @property
    def load_options(self) -> LoadOptions:
        """The options to load the model with."""
        return resident(self.request.load_options, self.request.settings.length)


def prepare(
    request: TuneRequest, corpus: TuneCorpus, *, budget: Budget | None = None
) -> PreparedRun:
    """Check and plan a run on the examples that were read from `request.data`.

    budget: by default this device's.

    Raises ExamplesError for documents longer than a batch, ConfigError for options that
    do not fit the model, the adapter to start from or the run that goes on,
    CheckpointError for an adapter that is damaged or of another model, and
    MemoryBudgetError if training does not fit, with what would.
    """
    require_resident(request.load_options)
    if request.options.patience is not None and not len(corpus.valid):
        raise ConfigError(
            "`--patience` compares losses of a validation: give `--valid FILE` or a "
            "`--valid-share` above 0"
        )
    checkpoint = open_checkpoint(
        request.model_folder, strict=request.load_options.strict
    )
    options = request.options
    tokens = options.batch_tokens
    data = TrainingBatches(corpus.train, tokens=tokens, seed=options.seed)
    validation = (
        TrainingBatches(corpus.valid, tokens=tokens, shuffle=False)
        if len(corpus.valid)
        else None
    )
    planner = make_planner(checkpoint, request, budget or device_budget())
    plan = planner.plan(batch_sizes(data, corpus, options.epochs))
    planner.require_fit(plan)
    start = None
    if request.start is not None:
        start = open_start(request.start, checkpoint.config, options)
    record = make_record(request, checkpoint, corpus, data, start)
    saved = None
    if request.resume:
        record, saved = resume_folder(request.folder, record)
    return PreparedRun(
        request=request,
        config=checkpoint.config,
        corpus=corpus,
        data=data,
        validation=validation,
        plan=plan,
        record=record,
        start=start,
        saved=saved,
    )


def require_resident(options: LoadOptions) -> None:
    """Raise ConfigError for experts that a gradient cannot pass, and for float16."""
    if options.experts not in (AUTO, RESIDENT):
        raise ConfigError(
            f"training needs all experts in memory: leave `--experts {options.experts}`"
            " out"
        )
    if options.dtype == "float16":
        raise ConfigError(
            "gradients overflow float16: train with `--dtype bfloat16` or `float32`"
        )


def resident(options: LoadOptions, context: int) -> LoadOptions:
    """Return options that load all experts, and room for `context` tokens."""
    return replace(options, experts=RESIDENT, context=options.context or context)


def make_planner(
    checkpoint: Checkpoint, request: TuneRequest, budget: Budget
) -> TunePlanner:
    """Make the planner of a checkpoint."""
    dtype = request.load_options.compute_dtype
    model = describe_checkpoint(checkpoint, dtype.size, request.model)
    fast = multiplies_fast(dtype)
    return TunePlanner(
        model,
        request.options,
        limit_budget(budget, request.load_options.memory),
        can_decode=fast and bool(checkpoint.structure.quantization),
        fast_blas=fast,
    )


def batch_sizes(
    data: TrainingBatches, corpus: TuneCorpus, epochs: int
) -> Iterator[BatchSize]:
    """Yield the sizes of the batches of a run, without reading a document."""
    tokens, learned = corpus.train.tokens, corpus.train.learned
    for epoch in range(min(epochs, PLANNED_EPOCHS)):
        for numbers in data.plan(epoch):
            lengths = tuple((tokens[numbers] - 1).tolist())
            yield BatchSize(lengths, int(learned[numbers].sum(dtype=np.int64)))


def make_record(
    request: TuneRequest,
    checkpoint: Checkpoint,
    corpus: TuneCorpus,
    data: TrainingBatches,
    start: StoredAdapter | None = None,
) -> RunRecord:
    """Describe a run."""
    options = request.options
    return RunRecord(
        model=request.model,
        model_digest=model_digest(checkpoint),
        data=str(request.data.absolute()),
        data_digest=corpus.digest,
        options=options.as_json(),
        settings=settings_as_json(request.settings),
        valid=None if request.valid is None else str(request.valid.absolute()),
        start=None if start is None else start.digest,
        documents=len(corpus.train),
        validation_documents=len(corpus.valid),
        conversations=corpus.conversations,
        steps=options.steps or steps_in(data, options.epochs, options.accumulate),
        made_with=f"mlx-gptoss {version('mlx-gptoss')}, mlx {version('mlx')}",
    )


def settings_as_json(settings: CorpusSettings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(settings).items()
    }


def settings_from_json(found: dict[str, Any]) -> CorpusSettings:
    """Read what `settings_as_json` returned."""
    return CorpusSettings(**{**found, "train_on": tuple(found["train_on"])})


def model_digest(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of a config and of some bytes of every tensor."""
    digest = hashlib.sha256(config_digest(checkpoint.config).encode())
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
        for part in tensor.parts:
            with part.file.open("rb") as file:
                file.seek(part.offset)
                digest.update(file.read(min(SAMPLE_BYTES, part.nbytes)))
    return digest.hexdigest()
