"""Gives the worker its tasks, watches it, and finds out who brought it down.

    future = supervisor.submit(Task(message, seconds=5))
    future.result()                  # LostError if this task brought the worker down

As many tasks are under way as the process has threads, so each runs as soon as it is
sent, and its time is its own. A task that takes too long, or too much memory, has the
process killed. When the process ends, a task that was alone under way is to blame; of
several each is tried again, alone. All others are sent again, to a new process, which
knows nothing: `message` is asked for what it must be told there.
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.errors import GptOssError, SchemaError
from mlx_gptoss.harmony.constrain.worker.process import (
    COMPILE_THREADS,
    MASK_THREADS,
    WorkerProcess,
)
from mlx_gptoss.harmony.json_text import Json

TICK_SECONDS = 0.02  # between looks at what is under way
STOPPED_SECONDS = 1.0
IDLE_SECONDS = 20  # without anyone who may ask, before the process is ended
MOST_BYTES = 1 << 30  # that the process may grow by
BLAMED_SHARE = 4  # a task that took one in so many of these bytes took too much
FIRST_SECONDS = 60.0  # to start, and to read a vocabulary
MAX_FAILED_STARTS = (
    8  # processes in a row that do nothing: some are killed while they start
)
MOST_SLOW = MASK_THREADS - 2  # texts with costly masks, beside which others go on

log = logging.getLogger(__name__)


class LostError(Exception):
    """A task brought the worker down: what it did, for the end of a sentence."""


@dataclass(eq=False)
class Task:
    """Something for the worker to do.

    `message(life)` is what that process is to be sent. It is killed if it has no answer
    within `seconds`, those `more_seconds` that the message names, and the time that it
    takes to read its `vocabulary`, if it has one to read. `place` is that of its
    thread, while the task is under way.
    """

    message: Callable[[WorkerProcess], Json]
    seconds: float
    vocabulary: int | None = None
    computes_mask: bool = False
    is_slow: bool = False
    runs_alone: bool = False
    future: "Future[Any]" = field(default_factory=Future)
    more_seconds: float = 0.0
    started_at: float = 0.0
    duration: float = 0.0
    memory: int = 0
    slot: int = 0


class Supervisor:
    """Runs tasks in one process at a time; any thread may submit them."""

    def __init__(
        self, *, most_bytes: int = MOST_BYTES, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._most_bytes = most_bytes
        self._linger = idle_seconds
        self._life: WorkerProcess | None = None
        self._users: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Have no process, without touching one: that of whom this was forked from."""
        if self._life is not None:
            self._life.disown()
        self._changed = threading.Condition(threading.RLock())
        self._life = None
        self._under_way: dict[int, Task] = {}
        self._waiting: deque[Task] = deque()
        self._places = free_slots()
        self._numbers = itertools.count(1)
        self._left_at = 0.0  # when anybody was there last
        self._floor = 0  # bytes of the process with its vocabularies
        self._fruitless = 0  # lives that ended without an answer
        self._forgotten: deque[tuple[str, int]] = deque()
        self._verdict: tuple[Task | None, str] | None = None  # why it was killed
        self._watch: threading.Thread | None = None
        self._resting = False
        self._looked = 0.0

    def register(self, key: int) -> None:
        """Somebody, with a vocabulary of that key, may have tasks from now on."""
        self._users.add(key)

    # What finalizers call takes no lock: they run in the middle of anything.

    def unregister(self, key: int) -> None:
        """And from now on no more; without anyone the process ends after a while."""
        self._users.discard(key)
        self._left_at = time.monotonic()
        self._forgotten.append(("vocabularies", key))

    def forget_matcher(self, matcher: int) -> None:
        """Have one who follows a text forgotten."""
        self._forgotten.append(("matchers", matcher))

    def submit(self, task: Task) -> "Future[Any]":
        """Have a task done; its future raises LostError, or SchemaError if it fails."""
        with self._changed:
            self._waiting.append(task)
            self._dispatch()
        return task.future

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        life = self._life
        return None if life is None else life.pid

    def _dispatch(self) -> None:
        """Send what may be under way now."""
        for task in list(self._waiting):
            if not any(self._places.values()):
                return
            alone = [one for one in self._under_way.values() if one.runs_alone]
            if alone or (task.runs_alone and self._under_way):
                return
            slow = sum(one.is_slow for one in self._under_way.values())
            if not self._places[task.computes_mask] or (
                task.is_slow and slow >= MOST_SLOW
            ):
                continue
            life = self._living()
            if life is None:
                return
            self._waiting.remove(task)
            if task.started_at or task.future.set_running_or_notify_cancel():
                self._send(life, task)

    def _living(self) -> WorkerProcess | None:
        """The process; a new one if there is none. None, and all fail, if it cannot."""
        try:
            if self._fruitless >= MAX_FAILED_STARTS:
                raise OSError("it ends as soon as it is started")
            self._life = self._life or WorkerProcess(self._answered, self._ended)
        except OSError as error:
            self._fruitless = 0
            self._fail_all(
                GptOssError(f"the process that checks grammars cannot start: {error}")
            )
            return None
        if self._watch is None:
            self._watch = threading.Thread(target=self._keep_watch, daemon=True)
            self._watch.start()
        return self._life

    def _send(self, life: WorkerProcess, task: Task) -> None:
        number = next(self._numbers)
        self._under_way[number] = task
        task.started_at = self._left_at = time.monotonic()
        task.memory = life.memory
        task.slot = self._places[task.computes_mask].pop()
        forgotten: dict[str, list[int]] = {"matchers": [], "vocabularies": []}
        while self._forgotten:
            what, key = self._forgotten.popleft()
            forgotten[what].append(key)
        if any(forgotten.values()):
            life.vocabularies.difference_update(forgotten["vocabularies"])
            life.vocabularies_read.difference_update(forgotten["vocabularies"])
            life.send({"do": "forget", **forgotten})
        message = task.message(life)
        task.more_seconds = message.get("more_seconds", 0.0)
        life.send({"id": number, "place": task.slot, **message})
        if self._resting:
            self._changed.notify_all()

    def _answered(self, life: WorkerProcess, answer: Json) -> None:
        with self._changed:
            if life is not self._life:
                return
            self._fruitless = 0
            if answer["id"] is None:  # it has started
                self._begin_now(life, list(self._under_way.values()))
                return
            task = self._under_way.pop(answer["id"])
            value = answer.get("value")
            self._places[task.computes_mask].append(task.slot)
            task.duration = time.monotonic() - task.started_at
            if task.computes_mask and value is not None:
                value = (value[0], life.mask(task.slot, value[1]))
            if (
                task.vocabulary is not None
                and task.vocabulary not in life.vocabularies_read
            ):
                life.vocabularies_read.add(task.vocabulary)
                waited = [
                    one
                    for one in self._under_way.values()
                    if one.vocabulary == task.vocabulary
                ]
                self._begin_now(life, waited)
            self._dispatch()
        # Outside: what waits for it may submit the next task at once.
        if "error" in answer:
            task.future.set_exception(SchemaError(answer["error"]))
        else:
            task.future.set_result((life, value))

    def _begin_now(self, life: WorkerProcess, tasks: list[Task]) -> None:
        """Count time and memory of tasks from here: they waited for something else."""
        self._floor = life.memory
        for task in tasks:
            task.started_at, task.memory = time.monotonic(), self._floor

    def _ended(self, life: WorkerProcess) -> None:
        """Find out who is to blame, and do all else again."""
        with self._changed:
            tasks, verdict = list(self._under_way.values()), self._verdict
            guilty, why = verdict or self._by_itself(life)
            if guilty not in tasks:  # its answer came in time, just
                guilty = None
            self._life, self._under_way, self._verdict = None, {}, None
            self._places = free_slots()
            self._fruitless += not life.started
            for task in reversed(tasks):
                if task is not guilty:
                    self._waiting.appendleft(task)
            if self._waiting:
                self._dispatch()
        if (
            guilty is not None and guilty in tasks
        ):  # and not answered at the last moment
            log.warning("a grammar is given up: it %s", why)
            guilty.future.set_exception(LostError(why))

    def _by_itself(self, life: WorkerProcess) -> tuple[Task | None, str]:
        """Who is to blame for an end that nobody ordered; of several, nobody yet."""
        suspects = [
            task
            for number, task in self._under_way.items()
            if life.has_begun(task.slot, number)
        ]
        if len(suspects) == 1:
            return suspects[0], "ended the process that checks grammars"
        for task in suspects:
            task.runs_alone = True
        return None, ""

    def _fail_all(self, error: Exception) -> None:
        tasks = [*self._under_way.values(), *self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        self._places = free_slots()
        for task in tasks:
            task.future.set_exception(error)

    def _keep_watch(self) -> None:
        """Look at what is under way; end the process when nobody needs it."""
        with self._changed:
            while True:
                life, rest = self._life, TICK_SECONDS
                if life is not None and self._under_way:
                    self._look(life, time.monotonic())
                elif life is None:
                    rest = None
                elif self._users:
                    rest = self._linger  # nobody says so when they leave
                else:
                    rest = self._left_at + self._linger - time.monotonic()
                    if rest <= 0:
                        life.kill()
                        rest = TICK_SECONDS
                self._resting = rest is None or rest > TICK_SECONDS
                self._changed.wait(rest)
                if self._resting:
                    self._looked = time.monotonic()
                self._resting = False

    def _look(self, life: WorkerProcess, now: float) -> None:
        """Have the process killed for what takes too long, or too much memory."""
        slept = now - self._looked - TICK_SECONDS
        if slept > STOPPED_SECONDS:  # both were, by Ctrl-Z or a lid
            for task in self._under_way.values():
                task.started_at = min(now, task.started_at + slept)
        self._looked = now
        late = [
            task for task in self._under_way.values() if now >= self._end(life, task)
        ]
        if late and self._verdict is None:
            seconds = late[0].seconds + late[0].more_seconds
            why = f"took more than {round(seconds, 1):g} seconds"
            self._verdict = late[0], why
            life.kill()
        elif life.started and life.memory - self._floor > self._most_bytes:
            most = max(self._under_way.values(), key=lambda one: -one.memory)
            blamed = (life.memory - most.memory) * BLAMED_SHARE > self._most_bytes
            why = f"took more than {self._most_bytes >> 20} MB"
            self._verdict = self._verdict or (most if blamed else None, why)
            life.kill()

    def _end(self, life: WorkerProcess, task: Task) -> float:
        """When a task must have its answer."""
        ready = life.started and (
            task.vocabulary is None or task.vocabulary in life.vocabularies_read
        )
        seconds = task.seconds + task.more_seconds
        return task.started_at + seconds + FIRST_SECONDS * (not ready)


def free_slots() -> dict[bool, list[int]]:
    """Where threads have nothing to do: those that follow texts, and the others."""
    others = range(MASK_THREADS, MASK_THREADS + COMPILE_THREADS)
    return {True: list(range(MASK_THREADS)), False: list(others)}
