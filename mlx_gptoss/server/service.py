"""Shared by all routes: models, settings, and the life of one request.

    job = await service.start(request, model, make_request)      # leased and started
    return await service.reply(request, job, work, headers)  # or
    return service.stream(job, frames, headers)

Every job is closed exactly once, however it ends: its turns stop and its model lease is
released.
"""

import asyncio
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt, start_answers
from mlx_gptoss.api.ignored import add_unenforced_keywords
from mlx_gptoss.api.prompt import (
    ConversationRequest,
    prefill_next_prompt,
    prepare_prompts,
)
from mlx_gptoss.api.refused import RefusedAnswer, incoming_texts
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.wire import ReplyModel
from mlx_gptoss.chat.reasoning_memory import ReasoningMemory
from mlx_gptoss.engine.prompt_progress import PromptProgress
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.server.batches.worker import BatchWorker
from mlx_gptoss.server.body_budget import BodyBudget
from mlx_gptoss.server.drain import Drain
from mlx_gptoss.server.metrics import Metrics
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.policies import ServedPolicies
from mlx_gptoss.server.redactor import ServedRedactor
from mlx_gptoss.server.responses.registry import ResponseRegistry
from mlx_gptoss.server.stream import (
    KEEP_ALIVE,
    QUEUED,
    SERVER_SENT_EVENTS,
    EventStream,
    StreamFormat,
    progress_comment,
    while_connected,
)
from mlx_gptoss.server.thread_pools import ThreadPools

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Job:
    """A request being answered: its model, and one turn per choice.

    It was `started` at a time of `time.monotonic`; to load the model took
    `load_seconds`, almost none if it was loaded.
    """

    model: str
    runtime: Runtime
    answers: Sequence[AnswerStream]
    _stack: AsyncExitStack
    started: float
    load_seconds: float
    _conversation: ConversationRequest | None = None

    @property
    def conversation(self) -> ConversationRequest:
        """The parsed request, for requests that are conversations."""
        assert self._conversation is not None
        return self._conversation

    @property
    def turn(self) -> AnswerStream:
        """The turn of a request with one choice."""
        return self.answers[0]

    def heartbeat(self) -> bytes:
        """Return a comment for an idle stream: what its answers are waiting for."""
        place = max(turn.queue_position for turn in self.answers)
        if place:
            return QUEUED % place
        reading = (turn.progress for turn in self.answers if turn.progress)
        progress = next((one for one in reading if one.processed), None)
        return KEEP_ALIVE if progress is None else progress_comment(progress)

    def comment_progress(self, stream: EventStream) -> None:
        """Send a comment whenever a part of a prompt was read and more is left."""

        def comment(progress: PromptProgress) -> None:
            if progress.processed and not progress.finished:
                stream.comment(progress_comment(progress))

        for turn in self.answers:
            turn.on_progress = comment
            if turn.progress is not None:  # from before there was a stream
                comment(turn.progress)

    def on_close(self, then: Callable[[], object]) -> None:
        """Call `then` when the job is closed."""
        self._stack.callback(then)

    async def close(self) -> None:
        """Stop running turns and release the model. Idempotent."""
        for turn in self.answers:
            turn.abandon()
        await self._stack.aclose()


@dataclass
class Service:
    """The shared state of one server."""

    models: Models
    settings: ServerSettings = field(default_factory=ServerSettings)
    responses: ResponseRegistry = field(default_factory=ResponseRegistry)
    memory: ReasoningMemory = field(default_factory=ReasoningMemory)
    drain: Drain = field(default_factory=Drain)
    pools: ThreadPools = field(default_factory=ThreadPools)
    batches: BatchWorker | None = None
    redactor: ServedRedactor | None = None
    policies: ServedPolicies | None = None
    metrics: Metrics = field(init=False)
    body_budget: BodyBudget = field(init=False)

    def __post_init__(self) -> None:
        self.body_budget = BodyBudget(self.settings.limits.all_body_bytes)
        self.metrics = Metrics(self.models)

    @classmethod
    def of(cls, request: Request) -> "Service":
        return request.app.state.service

    async def start(
        self,
        request: Request,
        model: str | None,
        make_request: Callable[[Runtime], ConversationRequest],
    ) -> Job:
        """Lease a model and start generating. Raises ApiError for a bad request.

        `make_request` runs in a thread and may block.
        """
        size, made = self.body_size(request), list[ConversationRequest]()

        async def prompts(runtime: Runtime) -> list[PreparedPrompt]:
            conversation = await self.pools.run(size, make_request, runtime)
            made.append(conversation)
            run = self.pools.compile if conversation.needs_compiling else self.pools.run
            return await run(
                max(size, conversation.characters),
                prepare_prompts,
                conversation,
                runtime,
                max_entries=self.settings.limits.prompt_logprobs,
            )

        async def start() -> Job:
            if self._guarded:
                async with self.models.lease(self.models.resolve(model).model) as one:
                    read = await self.pools.run(size, make_request, one)
                refused = await self._refused(
                    model, incoming_texts(read.conversation), read.choices
                )
                if refused is not None:
                    return replace(refused, _conversation=read)
            job = await self._start(model, prompts)
            return replace(job, _conversation=made[0])

        return await while_connected(request, start())

    async def start_prompts(
        self,
        request: Request,
        model: str | None,
        make: Callable[[Runtime], list[PreparedPrompt]],
    ) -> Job:
        """Lease a model and start the prompts that `make` returns, in a thread."""
        prompts = partial(self.pools.run, self.body_size(request), make)

        async def start() -> Job:
            if self._guarded:
                async with self.models.lease(self.models.resolve(model).model) as one:
                    read = await prompts(one)
                    texts = [one.tokenizer.decode(prompt.ids) for prompt in read]
                refused = await self._refused(model, dict.fromkeys(texts), len(read))
                if refused is not None:
                    return refused
            return await self._start(model, prompts)

        return await while_connected(request, start())

    async def inspect(
        self,
        request: Request,
        model: str | None,
        make_request: Callable[[Runtime], ConversationRequest],
        work: Callable[[ConversationRequest, Runtime], T],
    ) -> tuple[ConversationRequest, T]:
        """Lease a model; return the parsed request and the result of `work` on it."""

        async def inspect() -> tuple[ConversationRequest, T]:
            size = self.body_size(request)
            async with self.models.lease(model) as runtime:
                conversation = await self.pools.run(size, make_request, runtime)
                size = max(size, conversation.characters)
                return conversation, await self.pools.run(
                    size, work, conversation, runtime
                )

        return await while_connected(request, inspect())

    async def run(
        self, request: Request, model: str | None, work: Callable[[Runtime], T]
    ) -> T:
        """Lease a model; return the result of `work` on it, which runs in a thread."""

        async def run() -> T:
            async with self.models.lease(model) as runtime:
                return await self.pools.run(self.body_size(request), work, runtime)

        return await while_connected(request, run())

    def body_size(self, request: Request) -> int:
        """Return the size of a request's body in bytes."""
        return getattr(request.state, "body_bytes", 0)

    async def reply(
        self,
        request: Request,
        job: Job,
        work: Coroutine[Any, Any, ReplyModel],
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send what `work` returns; cancel it if the client disconnects first."""
        try:
            reply = await while_connected(request, work)
        finally:
            await job.close()
        return json_reply(
            reply, add_unenforced_keywords(headers, job.turn.prompt.unenforced)
        )

    def stream(
        self,
        job: Job,
        frames: AsyncIterator[bytes],
        headers: Mapping[str, str] | None = None,
        *,
        form: StreamFormat = SERVER_SENT_EVENTS,
    ) -> EventStream:
        """Send `frames` as the client reads them, in the form of an API's streams."""
        limits = self.settings.limits
        comments = form.comments and self.settings.stream_comments
        stream = EventStream(
            frames,
            close=job.close,
            heartbeat_seconds=limits.heartbeat_seconds,
            heartbeat=job.heartbeat if comments else lambda: form.blank,
            form=form,
            headers=add_unenforced_keywords(headers, job.turn.prompt.unenforced),
        )
        if comments:
            job.comment_progress(stream)
        return stream

    async def _start(
        self,
        model: str | None,
        make: Callable[[Runtime], Awaitable[list[PreparedPrompt]]],
    ) -> Job:
        if (refusal := self.drain.refusal()) is not None:
            raise refusal
        choice, started = self.models.resolve(model), time.monotonic()
        async with AsyncExitStack() as stack:
            leased = self.models.lease(choice.model)
            runtime = await stack.enter_async_context(leased)
            load_seconds = time.monotonic() - started
            if choice.adapter is not None and choice.adapter not in runtime.adapters:
                raise self.models.not_found(choice.name)
            made = await make(runtime)
            prompts = [replace(one, adapter=choice.adapter) for one in made]
            if self.settings.log_prompts:
                for prompt in prompts:
                    log.info("prompt: %r", runtime.tokenizer.decode(prompt.ids))
            turns = await start_answers(
                runtime, prompts, partial(self._record_turn, runtime)
            )
            stack.callback(self.drain.track(turns))
            kept = stack.pop_all()
            return Job(choice.name, runtime, turns, kept, started, load_seconds)
        raise AssertionError("unreachable")

    @property
    def _guarded(self) -> bool:
        return self.policies is not None and bool(self.policies.guards)

    async def _refused(
        self, model: str | None, texts: Iterable[str], choices: int
    ) -> Job | None:
        """Return a job whose answers say that a guard refused one of some texts.

        None if they pass. The model that judges may need the place of the one that
        answers, so no other is leased meanwhile.
        """
        assert self.policies is not None
        if (refusal := self.drain.refusal()) is not None:
            raise refusal
        choice, started = self.models.resolve(model), time.monotonic()
        found = await self.policies.refusal(self.models, texts)
        if found is None:
            return None
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(self.models.lease(choice.model))
            answers = [RefusedAnswer(runtime, found.message) for _ in range(choices)]
            return Job(choice.name, runtime, answers, stack.pop_all(), started, 0.0)
        raise AssertionError("unreachable")

    def require_policies(self) -> ServedPolicies:
        """Return the policies of this server. Raises ApiError where it has none."""
        if self.policies is None:
            raise bad_request(
                "this server has no policies: start it with `--policy NAME=FILE`"
            )
        return self.policies

    def require_batches(self) -> BatchWorker:
        """Return the worker of batches. Raises ApiError where nothing is stored."""
        if self.batches is None:
            raise bad_request(
                "this server stores no files and batches (--no-store): use "
                "`mlx-gptoss batch`"
            )
        return self.batches

    @property
    def restore(self) -> Restore | None:
        """Restores reasoning omitted before tool calls; None when disabled."""
        return self.memory.restore if self.settings.reasoning_memory else None

    def record_request(
        self, method: str, route: str, status: int, seconds: float
    ) -> None:
        """Count and log a finished request, never its content."""
        self.metrics.request(method, route, status)
        log.info("%s %s %d in %.3f s", method, route, status, seconds)

    def _record_turn(self, runtime: Runtime, turn: AnswerStream) -> None:
        self.metrics.turn(turn)
        if turn.parser.has_called and self.settings.reasoning_memory:
            self.memory.remember(turn.parser.call_ids, turn.parser.messages)
        work = asyncio.get_running_loop().run_in_executor
        work(None, prefill_next_prompt, turn, runtime)


def json_reply(reply: ReplyModel, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        reply.json_text(), media_type="application/json", headers=dict(headers or {})
    )
