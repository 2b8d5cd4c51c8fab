"""Judge a pile of texts: together, in order, and gone on with after an interruption.

    job = ClassifyJob(texts=open_texts([path]), policies=(policy,), output=out)
    summary = await job.run(runtime, on_judged=print)

Built on the pool and the journal of `batch`.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlx_gptoss.api.errors import as_api_error
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.scheduler.options import DEFAULT_RUNNING
from mlx_gptoss.errors import AnswerFormatError, BatchError
from mlx_gptoss.workloads.batch.inputs import TABLES
from mlx_gptoss.workloads.batch.items import InputRow
from mlx_gptoss.workloads.batch.journal import OutputJournal
from mlx_gptoss.workloads.batch.pool import work_through
from mlx_gptoss.workloads.batch.run import ERRORS_SUFFIX, BatchProgress
from mlx_gptoss.workloads.classify.classifier import Classifier, ClassifyOptions
from mlx_gptoss.workloads.classify.inputs import TextRows
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.results import Judged, VerdictWriter
from mlx_gptoss.workloads.classify.verdict import Verdict

FORMATS = (".jsonl", ".ndjson", *TABLES)


@dataclass(frozen=True, kw_only=True)
class ClassifyJob:
    """What to judge, and by what.

    texts: the texts (see inputs.py).
    policies: one or more, of different names; each judges every text.
    output: a file of verdicts, `.jsonl` or a table; None only reports them.
    reasoning: also write what the model thought.
    parallel: most texts at a time.

    Raises BatchError for parts that do not fit.
    """

    texts: TextRows
    policies: tuple[Policy, ...]
    output: Path | None = None
    options: ClassifyOptions = field(default_factory=ClassifyOptions)
    reasoning: bool = False
    parallel: int = DEFAULT_RUNNING

    def __post_init__(self) -> None:
        names = [policy.name for policy in self.policies]
        for name in names:
            if names.count(name) > 1:
                raise BatchError(
                    f"two policies are named `{name}`: write --policy NAME=FILE"
                )
        if self.output is None:
            return
        if self.output.suffix.lower() not in FORMATS:
            raise BatchError(
                f"`{self.output}` is of an unknown kind: use a name that ends in "
                + ", ".join(FORMATS)
            )
        if self.output in (source.path for source in self.texts.sources):
            raise BatchError(f"`{self.output}` is judged: choose another output")

    @property
    def errors_path(self) -> Path | None:
        """The file of the rows without a verdict."""
        if self.output is None:
            return None
        return self.output.with_name(self.output.stem + ERRORS_SUFFIX)

    def writer(self) -> VerdictWriter:
        """Return what writes the lines of the output. Raises BatchError."""
        writer = VerdictWriter(self.policies, self.options.rationale, self.reasoning)
        suffix = "" if self.output is None else self.output.suffix.lower()
        if suffix not in TABLES:
            return writer
        columns = self.texts.columns
        if columns is None:
            columns = _fields_of_first(self.texts)
        return replace(writer, columns=columns, delimiter=TABLES[suffix])

    async def run(
        self,
        runtime: Runtime,
        on_judged: Callable[[Judged], None] = lambda judged: None,
        report: Callable[[BatchProgress], None] = lambda progress: None,
    ) -> BatchProgress:
        """Judge all texts that are not judged yet, in order. Returns the counts.

        `on_judged` is told of each text of this run, `report` of how far it is. Raises
        BatchError and StorageError.
        """
        classifier = Classifier(runtime, self.options)
        total = await asyncio.to_thread(lambda: sum(1 for _ in self.texts.rows()))
        if self.output is None:
            progress = BatchProgress(total)
            async for judged in self._judged(classifier, self.texts.rows()):
                progress.done += 1
                progress.failed += judged.problem is not None
                _count(progress, classifier)
                on_judged(judged)
                report(progress)
            return progress
        writer = self.writer()
        identity = await asyncio.to_thread(self._identity, runtime)
        assert self.errors_path is not None
        with OutputJournal.open(
            self.output, self.errors_path, identity, heading=writer.heading
        ) as journal:
            before = len(journal.done)
            progress = BatchProgress(total, before, journal.failed, before)
            left = (row for row in self.texts.rows() if row.index not in journal.done)
            async for judged in self._judged(classifier, left):
                line, is_error = writer.line(judged)
                journal.append(judged.row.index, line, is_error=is_error)
                progress.done, progress.failed = len(journal.done), journal.failed
                _count(progress, classifier)
                on_judged(judged)
                report(progress)
        return progress

    def _judged(self, classifier: Classifier, rows: Iterator[InputRow]):
        async def judge(row: InputRow) -> Judged:
            return await judge_row(classifier, row, self.texts, self.policies)

        return work_through(rows, judge, parallel=self.parallel, in_order=True)

    def _identity(self, runtime: Runtime) -> dict[str, Any]:
        options = self.options
        parts = [
            [(policy.name, policy.digest()) for policy in self.policies],
            [options.effort, options.rationale, options.scores, self.reasoning],
            [repr(options.params), options.max_reasoning, options.date],
            sorted((name, c.temperature) for name, c in options.calibrations.items()),
            options.adapter,
            self.output and self.output.suffix.lower(),
        ]
        text = json.dumps(parts, sort_keys=True)
        return {
            "input": self.texts.digest(),
            "model": runtime.digest,
            "options": hashlib.sha256(text.encode()).hexdigest(),
        }


async def judge_row(
    classifier: Classifier, row: InputRow, texts: TextRows, policies: tuple[Policy, ...]
) -> Judged:
    """Judge a row by all policies. What goes wrong with it is its problem.

    Raises GptOssError once the runtime is closed.
    """
    if row.problem is not None:
        return Judged(row, {}, row.problem)
    text = texts.text_of(row)
    verdicts: dict[str, Verdict] = {}
    try:
        for policy in policies:
            verdicts[policy.name] = await classifier.classify(text, policy)
    except AnswerFormatError as error:
        return Judged(row, {}, str(error))
    except Exception as error:
        if classifier.runtime.closed:
            raise
        return Judged(row, {}, as_api_error(error).message)
    return Judged(row, verdicts)


def _count(progress: BatchProgress, classifier: Classifier) -> None:
    usage = classifier.usage
    progress.prompt_tokens = usage.prompt_tokens
    progress.cached_tokens = usage.cached_tokens
    progress.completion_tokens = usage.completion_tokens


def _fields_of_first(texts: TextRows) -> list[str]:
    """Return the fields of the first row that can be read."""
    first = next((row for row in texts.rows() if not row.problem), None)
    return list(first.fields) if first is not None else []
