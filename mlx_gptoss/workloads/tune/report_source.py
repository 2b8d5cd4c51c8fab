"""The validation documents of a run, found again from its record."""

from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.workloads.tune.batches import TrainingBatches
from mlx_gptoss.workloads.tune.corpus import read_corpus
from mlx_gptoss.workloads.tune.document_index import TrainingDocuments
from mlx_gptoss.workloads.tune.prepare import settings_from_json
from mlx_gptoss.workloads.tune.run_record import RunRecord, read_record


@dataclass(frozen=True)
class ReportSource:
    """A run that can be reported."""

    folder: Path
    record: RunRecord

    def documents(self, model_folder: Path) -> TrainingDocuments:
        """Read the validation documents again.

        Raises ConfigError if the examples have changed, and ExamplesError if they
        cannot be read.
        """
        record = self.record
        corpus = read_corpus(
            Path(record.data),
            Tokenizer.open(model_folder),
            settings_from_json(record.settings),
            valid=None if record.valid is None else Path(record.valid),
        )
        if corpus.digest != record.data_digest:
            raise ConfigError(
                f"the examples in `{record.data}` have changed since `{self.folder}` "
                "was trained: put them back as they were"
            )
        return corpus.valid

    def batches(self, documents: TrainingDocuments) -> TrainingBatches:
        """Pack documents as they were for validation."""
        tokens = self.record.options["batch_tokens"]
        return TrainingBatches(documents, tokens=tokens, shuffle=False)


def open_source(folder: Path) -> ReportSource:
    """Open a run. Raises ConfigError for one without validation documents."""
    record = read_record(folder)
    if record is None:
        raise ConfigError(
            f"`{folder}` has no run of `mlx-gptoss tune`: give its output folder"
        )
    if not record.validation_documents:
        raise ConfigError(
            f"`{folder}` was trained without validation documents, so there is nothing "
            "to compare on: train with `--valid FILE` or a `--valid-share` above 0"
        )
    return ReportSource(folder, record)
