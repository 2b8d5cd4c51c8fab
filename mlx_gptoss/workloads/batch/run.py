"""Work through a whole input: read, answer, write, and go on after an interruption.

    summary = run_batch(runtime, "requests.jsonl", "replies.jsonl")
    summary = await BatchJob(...).run(runtime, report)

Items are answered together, as many as `parallel`, and the next begins when one ends.
The same call on the same output goes on where it was stopped, however it was. With
equal input, model and options, ids and seeds are the same, so the replies are those of
an undisturbed run but for `created` and cached tokens (and for batches that add up in
another order: a token whose two best logits are all but equal may be the other one).
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_gptoss.api.errors import ApiError, as_api_error
from mlx_gptoss.api.ids import derived_ids
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.scheduler.options import DEFAULT_RUNNING
from mlx_gptoss.errors import BatchError, BusyError
from mlx_gptoss.workloads.batch.endpoints import ENDPOINTS, Asked, Refuse
from mlx_gptoss.workloads.batch.inputs import TABLES, BatchInput, open_input
from mlx_gptoss.workloads.batch.items import Item
from mlx_gptoss.workloads.batch.journal import OutputJournal
from mlx_gptoss.workloads.batch.pool import work_through
from mlx_gptoss.workloads.batch.requests import read_items, require_form
from mlx_gptoss.workloads.batch.results import (
    OK,
    ColumnLines,
    ColumnTable,
    Outcome,
    RequestLines,
    ResultWriter,
)
from mlx_gptoss.workloads.batch.template import Template

URLS = tuple(ENDPOINTS)
SEED_BYTES = 4
BUSY_SECONDS = 5.0  # longest wait before a full queue is tried again
ERRORS_SUFFIX = ".errors.jsonl"
INVALID_LINE = "invalid_line"


@dataclass
class BatchProgress:
    """How far a batch is. Tokens are those of this run; seconds since it began.

    `total` counts the rows of the input, `done` those that have ended, `failed` those
    of them without an answer, `before` those that an earlier run had done.
    """

    total: int
    done: int = 0
    failed: int = 0
    before: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    @property
    def cached_share(self) -> float:
        """The share of the prompts' tokens that had not to be read."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace of this run, None before its first row."""
        here = self.done - self.before
        return (self.total - self.done) * self.seconds / here if here else None


@dataclass(frozen=True)
class BatchSummary:
    """How a batch ended: its rows, and where the replies are."""

    total: int
    done: int
    failed: int
    before: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float
    output: Path
    errors: Path


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """What to work through, and how. Raises BatchError for what does not fit.

    source, output: the input (see inputs.py) and the file of replies.
    errors: the file of rows without an answer, by default beside the output.
    template: makes the requests, for an input that has none.
    model: the name that replies give the model.
    parallel: most items at a time.
    in_order: write replies in the order of the input, else as they end.
    retries: how often an item is tried again after an error of the server's side (a
        status of 500 or more).
    settings: defaults and limits of requests, as of a server.
    urls: the routes that requests may ask.
    adapter_of: returns the adapter for the `model` of a request, None for none, or
        raises ApiError. By default `MODEL:NAME` takes the adapter NAME if it is loaded,
        and any other name the active one.
    refuse: returns why some texts that came in are not answered, None if they are.
    """

    source: Path
    output: Path
    errors: Path | None = None
    template: Template | None = None
    model: str = "gpt-oss"
    parallel: int = DEFAULT_RUNNING
    in_order: bool = True
    retries: int = 0
    settings: ServerSettings = field(default_factory=ServerSettings)
    urls: tuple[str, ...] = URLS
    adapter_of: Callable[[str | None], str | None] | None = None
    refuse: Refuse | None = None

    @property
    def errors_path(self) -> Path:
        if self.errors is not None:
            return self.errors
        return self.output.with_name(self.output.stem + ERRORS_SUFFIX)

    def open_input(self) -> BatchInput:
        """Open the input. Raises BatchError if it has other rows than are expected."""
        if self.output in (self.source, self.errors_path):
            raise BatchError(f"`{self.output}` is named twice: choose another output")
        source = open_input(self.source)
        require_form(source, self.template)
        self._delimiter(source)
        return source

    async def run(
        self,
        runtime: Runtime,
        report: Callable[[BatchProgress], None] = lambda progress: None,
    ) -> BatchSummary:
        """Answer every row that is not answered yet. Raises BatchError, StorageError.

        `report` is called after each row.
        """
        source = self.open_input()
        origin = await asyncio.to_thread(self._origin, source, runtime)
        total = await asyncio.to_thread(lambda: sum(1 for _ in source.rows()))
        writer = self._writer(source, origin)
        identity = {
            "input": origin.source,
            "model": origin.model,
            "options": origin.options,
        }
        with OutputJournal.open(
            self.output, self.errors_path, identity, heading=writer.heading
        ) as journal:
            before = len(journal.done)
            progress = BatchProgress(total, before, journal.failed, before)
            worker = Worker(self, runtime, origin.text, progress)
            items = self._left(source, journal)
            outcomes = work_through(
                items, worker.answer, parallel=self.parallel, in_order=self.in_order
            )
            async for outcome in outcomes:
                line, is_error = writer.line(outcome)
                journal.append(outcome.item.index, line, is_error=is_error)
                progress.done, progress.failed = len(journal.done), journal.failed
                report(progress)
        return BatchSummary(
            total,
            progress.done,
            progress.failed,
            before,
            progress.prompt_tokens,
            progress.cached_tokens,
            progress.completion_tokens,
            progress.seconds,
            self.output,
            self.errors_path,
        )

    def _left(self, source: BatchInput, journal: OutputJournal) -> Iterator[Item]:
        for item in read_items(source, self.template, urls=self.urls):
            if item.index not in journal.done:
                yield item

    def _delimiter(self, source: BatchInput) -> str | None:
        """Return the delimiter of the output; None where it has lines of JSON."""
        delimiter = TABLES.get(self.output.suffix.lower())
        if delimiter is not None and source.has_requests:
            raise BatchError(
                f"replies to whole requests are no table: give `{self.output.stem}"
                ".jsonl` instead"
            )
        return delimiter

    def _writer(self, source: BatchInput, origin: "Origin") -> ResultWriter:
        delimiter = self._delimiter(source)
        if self.template is None:
            return RequestLines(origin.text)
        if delimiter is None:
            return ColumnLines(self.template)
        columns = source.columns or self._text_columns(source)
        return ColumnTable(self.template, columns, delimiter)

    def _text_columns(self, source: BatchInput) -> list[str]:
        """Return the fields of the first row that can be read."""
        first = next((row for row in source.rows() if not row.problem), None)
        return list(first.fields) if first is not None else []

    def _origin(self, source: BatchInput, runtime: Runtime) -> "Origin":
        options: list[Any] = [
            self.template and self.template.digest(),
            repr(self.settings.sampling),
            self.settings.max_reasoning,
            self.settings.date,
            self.output.suffix.lower(),
        ]
        text = json.dumps(options, sort_keys=True)
        return Origin(
            source.digest(), runtime.digest, hashlib.sha256(text.encode()).hexdigest()
        )


@dataclass(frozen=True)
class Origin:
    """Digests (hex) of all that replies depend on."""

    source: str
    model: str
    options: str

    @property
    def text(self) -> str:
        return f"{self.source} {self.model} {self.options}"


@dataclass
class Worker:
    """Answers items with a runtime, and adds up what they cost."""

    job: BatchJob
    runtime: Runtime
    origin: str
    progress: BatchProgress

    async def answer(self, item: Item) -> Outcome:
        """Answer an item. What goes wrong with it is the outcome.

        Raises GptOssError once the runtime is closed: nothing can be answered then.
        """
        if item.problem is not None:
            error = ApiError(400, item.problem, INVALID_LINE)
            return Outcome(item, error.status, error.body)
        tries = 0
        while True:
            try:
                return await self._try(item)
            except BusyError as error:  # others fill the queue: wait for a place
                await asyncio.sleep(min(error.retry_after, BUSY_SECONDS))
            except Exception as error:
                if self.runtime.closed:
                    raise
                known = as_api_error(error)
                if known.status < 500 or tries >= self.job.retries:
                    return Outcome(item, known.status, known.body)
                tries += 1

    async def _try(self, item: Item) -> Outcome:
        origin = f"{self.origin} {item.index}"
        asked = Asked(
            self.runtime,
            self.job.settings,
            self.job.model,
            self._adapter(item),
            _seed(origin),
            self.job.refuse,
        )
        try:
            with derived_ids(origin):
                reply = await ENDPOINTS[item.url](item.body, asked)
        finally:
            asked.end()
        for answer in asked.answers:
            usage = answer.usage
            self.progress.prompt_tokens += usage.prompt_tokens
            self.progress.cached_tokens += usage.cached_tokens
            self.progress.completion_tokens += usage.completion_tokens
        return Outcome(item, OK, json.loads(reply.json_text()))

    def _adapter(self, item: Item) -> str | None:
        """Return the adapter that a body names, `MODEL:NAME`, else the active one."""
        given = item.body.get("model")
        name = given if isinstance(given, str) else None
        if self.job.adapter_of is not None:
            return self.job.adapter_of(name)
        adapter = None if name is None else name.rpartition(":")[2]
        return adapter if adapter in self.runtime.adapters else self.runtime.adapter


def _seed(origin: str) -> int:
    digest = hashlib.blake2b(origin.encode(), digest_size=SEED_BYTES)
    return int.from_bytes(digest.digest(), "big")


def run_batch(
    runtime: Runtime,
    source: str | Path,
    output: str | Path,
    *,
    template: Template | None = None,
    report: Callable[[BatchProgress], None] = lambda progress: None,
    **options: Any,
) -> BatchSummary:
    """Answer every row of an input, and write the replies to an output.

        summary = run_batch(runtime, "letters.csv", "parties.csv", template=template)

    source: a `.jsonl` file of requests in OpenAI's Batch form; or, with a `template`
        that makes the requests, a `.jsonl`, `.csv`, `.tsv`, `.txt` or `.log` file, or a
        folder of texts.
    output: a `.jsonl` file, or for a template also `.csv` or `.tsv`. Rows without an
        answer go to `OUTPUT.errors.jsonl`.
    report(progress): called after each row, see BatchProgress.
    options: those of BatchJob (`parallel`, `in_order`, `retries`, ...).

    An interrupted run goes on when it is called again. Raises BatchError for an input
    that cannot be read or an output of other work, and StorageError for a disk that
    takes no more. Within an event loop use `BatchJob.run`.
    """
    job = BatchJob(
        source=Path(source), output=Path(output), template=template, **options
    )
    return asyncio.run(job.run(runtime, report))
