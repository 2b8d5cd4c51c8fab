"""Dispatch tasks to the worker process, enforce their limits, and restart it.

    future = supervisor.submit(Task(message, seconds=5))
    future.result()                  # LostError if this task brought the worker down

At most as many tasks run as the process has threads, so a task starts when it is sent
and its time is its own. The process is killed when a task exceeds its time or memory.
If the process ends by itself, the only running task is to blame; of several, each is
retried alone. All other tasks are sent to a new process, which has no state: `message`
is called again to build what it needs.
"""

import itertools
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

from mlx_gptoss.errors import GptOssError, SchemaError
from mlx_gptoss.harmony.constrain.worker.process import (
    COMPILE_THREADS,
    MASK_THREADS,
    WorkerProcess,
)
from mlx_gptoss.harmony.constrain.worker.task import LostError, Task
from mlx_gptoss.harmony.json_text import Json

TICK_SECONDS = 0.02  # between checks of the running tasks
SUSPENDED_SECONDS = 1.0  # between checks: this process was suspended
IDLE_SECONDS = 20  # without users, before the process is ended
MAX_GROWTH = 1 << 30  # of growth of the process
BLAMED_SHARE = 4  # a task that took a quarter of these bytes is to blame
LOADING_SECONDS = 60.0  # to start, and to load a vocabulary
MAX_FAILED_STARTS = 8  # in a row; some processes are killed while they start
MAX_SLOW = MASK_THREADS - 2  # tasks with costly masks, so that others go on

log = logging.getLogger(__name__)


class Supervisor:
    """Runs tasks in one process at a time; any thread may submit them."""

    def __init__(
        self, *, most_bytes: int = MAX_GROWTH, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._most_bytes = most_bytes
        self._idle_seconds = idle_seconds
        self._process: WorkerProcess | None = None
        self._users: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Start without a process; after a fork, leave the parent's process alone."""
        if self._process is not None:
            self._process.disown()
        self._changed = threading.Condition(threading.RLock())
        self._process = None
        self._running: dict[int, Task] = {}
        self._waiting: deque[Task] = deque()
        self._free_slots = free_slots()
        self._numbers = itertools.count(1)
        self._last_used = 0.0  # when a task was sent or a user left
        self._base_memory = 0  # bytes of the process with its vocabularies
        self._failed_starts = 0  # processes that ended without an answer
        self._forgotten: deque[tuple[str, int]] = deque()
        self._verdict: tuple[Task | None, str] | None = None  # culprit and reason
        self._monitor_thread: threading.Thread | None = None
        self._resting = False
        self._checked_at = 0.0

    def register(self, key: int) -> None:
        """Add a user, whose vocabulary has that key."""
        self._users.add(key)

    # Called by finalizers, which may run at any point: without the lock.

    def unregister(self, key: int) -> None:
        """Remove a user; without users the process ends after a while."""
        self._users.discard(key)
        self._last_used = time.monotonic()
        self._forgotten.append(("vocabularies", key))

    def forget_matcher(self, matcher: int) -> None:
        """Drop a matcher in the process."""
        self._forgotten.append(("matchers", matcher))

    def submit(self, task: Task) -> "Future[Any]":
        """Queue a task. Its future raises LostError, or SchemaError if it fails."""
        with self._changed:
            self._waiting.append(task)
            self._dispatch()
        return task.future

    @property
    def pid(self) -> int | None:
        """The id of the process, if there is one."""
        process = self._process
        return None if process is None else process.pid

    def _dispatch(self) -> None:
        """Send the waiting tasks that may run now."""
        for task in list(self._waiting):
            if not any(self._free_slots.values()):
                return
            alone = [one for one in self._running.values() if one.runs_alone]
            if alone or (task.runs_alone and self._running):
                return
            slow = sum(one.is_slow for one in self._running.values())
            if not self._free_slots[task.computes_mask] or (
                task.is_slow and slow >= MAX_SLOW
            ):
                continue
            process = self._ensure_process()
            if process is None:
                return
            self._waiting.remove(task)
            if task.started_at or task.future.set_running_or_notify_cancel():
                self._send(process, task)

    def _ensure_process(self) -> WorkerProcess | None:
        """Return the process, started if needed; on an error fail all tasks."""
        try:
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise OSError("it ends as soon as it is started")
            self._process = self._process or WorkerProcess(
                self._on_answer, self._on_end
            )
        except OSError as error:
            self._failed_starts = 0
            self._fail_all(
                GptOssError(f"the process that checks grammars cannot start: {error}")
            )
            return None
        if self._monitor_thread is None:
            self._monitor_thread = threading.Thread(target=self._monitor, daemon=True)
            self._monitor_thread.start()
        return self._process

    def _send(self, process: WorkerProcess, task: Task) -> None:
        number = next(self._numbers)
        self._running[number] = task
        task.started_at = self._last_used = time.monotonic()
        task.memory = process.memory
        task.slot = self._free_slots[task.computes_mask].pop()
        forgotten: dict[str, list[int]] = {"matchers": [], "vocabularies": []}
        while self._forgotten:
            what, key = self._forgotten.popleft()
            forgotten[what].append(key)
        if any(forgotten.values()):
            process.vocabularies.difference_update(forgotten["vocabularies"])
            process.vocabularies_loaded.difference_update(forgotten["vocabularies"])
            process.send({"do": "forget", **forgotten})
        message = task.message(process)
        task.more_seconds = message.get("more_seconds", 0.0)
        process.send({"id": number, "slot": task.slot, **message})
        if self._resting:
            self._changed.notify_all()

    def _on_answer(self, process: WorkerProcess, answer: Json) -> None:
        with self._changed:
            if process is not self._process:
                return
            self._failed_starts = 0
            if answer["id"] is None:  # the process has started
                self._restart_clocks(process, list(self._running.values()))
                return
            task = self._running.pop(answer["id"])
            value = answer.get("value")
            self._free_slots[task.computes_mask].append(task.slot)
            task.duration = time.monotonic() - task.started_at
            if task.computes_mask and value is not None:
                value = (value[0], process.mask(task.slot, value[1]))
            if (
                task.vocabulary is not None
                and task.vocabulary not in process.vocabularies_loaded
            ):
                process.vocabularies_loaded.add(task.vocabulary)
                waited = [
                    one
                    for one in self._running.values()
                    if one.vocabulary == task.vocabulary
                ]
                self._restart_clocks(process, waited)
            self._dispatch()
        # Without the lock: whoever waits for it may submit the next task at once.
        if "error" in answer:
            task.future.set_exception(SchemaError(answer["error"]))
        else:
            task.future.set_result((process, value))

    def _restart_clocks(self, process: WorkerProcess, tasks: list[Task]) -> None:
        """Restart time and memory of tasks that waited for something else to load."""
        self._base_memory = process.memory
        for task in tasks:
            task.started_at, task.memory = time.monotonic(), self._base_memory

    def _on_end(self, process: WorkerProcess) -> None:
        """Find the task that ended the process; queue all others again."""
        with self._changed:
            tasks, verdict = list(self._running.values()), self._verdict
            culprit, why = verdict or self._find_culprit(process)
            if culprit not in tasks:  # its answer came just in time
                culprit = None
            self._process, self._running, self._verdict = None, {}, None
            self._free_slots = free_slots()
            self._failed_starts += not process.started
            for task in reversed(tasks):
                if task is not culprit:
                    self._waiting.appendleft(task)
            if self._waiting:
                self._dispatch()
        if culprit is not None and culprit in tasks:
            log.warning("a grammar is given up: it %s", why)
            culprit.future.set_exception(LostError(why))

    def _find_culprit(self, process: WorkerProcess) -> tuple[Task | None, str]:
        """Find the task that crashed the process; with several suspects, none yet."""
        suspects = [
            task
            for number, task in self._running.items()
            if process.has_begun(task.slot, number)
        ]
        if len(suspects) == 1:
            return suspects[0], "ended the process that checks grammars"
        for task in suspects:
            task.runs_alone = True
        return None, ""

    def _fail_all(self, error: Exception) -> None:
        tasks = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        self._free_slots = free_slots()
        for task in tasks:
            task.future.set_exception(error)

    def _monitor(self) -> None:
        """Check the running tasks; end the process when it has no users."""
        with self._changed:
            while True:
                process, rest = self._process, TICK_SECONDS
                if process is not None and self._running:
                    self._check_limits(process, time.monotonic())
                elif process is None:
                    rest = None
                elif self._users:
                    rest = self._idle_seconds  # users leave without a notification
                else:
                    rest = self._last_used + self._idle_seconds - time.monotonic()
                    if rest <= 0:
                        process.kill()
                        rest = TICK_SECONDS
                self._resting = rest is None or rest > TICK_SECONDS
                self._changed.wait(rest)
                if self._resting:
                    self._checked_at = time.monotonic()
                self._resting = False

    def _check_limits(self, process: WorkerProcess, now: float) -> None:
        """Kill the process for a task that takes too long or too much memory."""
        slept = now - self._checked_at - TICK_SECONDS
        if slept > SUSPENDED_SECONDS:  # both processes were, by Ctrl-Z or a lid
            for task in self._running.values():
                task.started_at = min(now, task.started_at + slept)
        self._checked_at = now
        late = [
            task
            for task in self._running.values()
            if now >= self._deadline(process, task)
        ]
        if late and self._verdict is None:
            seconds = late[0].seconds + late[0].more_seconds
            why = f"took more than {round(seconds, 1):g} seconds"
            self._verdict = late[0], why
            process.kill()
        elif process.started and process.memory - self._base_memory > self._most_bytes:
            most = max(self._running.values(), key=lambda one: -one.memory)
            is_blamed = (process.memory - most.memory) * BLAMED_SHARE > self._most_bytes
            why = f"took more than {self._most_bytes >> 20} MB"
            self._verdict = self._verdict or (most if is_blamed else None, why)
            process.kill()

    def _deadline(self, process: WorkerProcess, task: Task) -> float:
        """Return the time by which a task must be answered."""
        ready = process.started and (
            task.vocabulary is None or task.vocabulary in process.vocabularies_loaded
        )
        seconds = task.seconds + task.more_seconds
        return task.started_at + seconds + LOADING_SECONDS * (not ready)


def free_slots() -> dict[bool, list[int]]:
    """Return the slots of all threads: True for those that compute masks."""
    others = range(MASK_THREADS, MASK_THREADS + COMPILE_THREADS)
    return {True: list(range(MASK_THREADS)), False: list(others)}
