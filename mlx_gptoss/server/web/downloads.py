"""Models that fit this machine: which are here, which could be, and their download.

One download at a time, in a thread; one that is stopped, or fails, goes on where it
ended when it is started again. Only the models that OpenAI published can be downloaded,
by name. Knows no HTTP.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.checkpoint.hub import DEMO, Hub
from mlx_gptoss.engine.forecast import forecast, model_from_shape
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import download_check
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import Budget, Machine, device_budget
from mlx_gptoss.memory.published_models import find_published_model
from mlx_gptoss.memory.saved_probe import describe_this_machine
from mlx_gptoss.server.models import ModelSource

PUBLISHED = ("openai/gpt-oss-20b", "openai/gpt-oss-120b")
RUNNING = "running"
MOST_LINES = 5  # of what a download says


class DownloadStopped(Exception):
    """The user stopped the download."""


def _this_machine() -> tuple[Machine, Budget]:
    return describe_this_machine(), device_budget()


class ModelLibrary:
    """The models of this machine. Any thread.

    `make_source` makes a model servable by its name.
    """

    def __init__(
        self,
        hub: Hub,
        options: LoadOptions,
        make_source: Callable[[str], ModelSource],
        machine: Callable[[], tuple[Machine, Budget]] = _this_machine,
    ) -> None:
        self._hub = hub
        self._options = options
        self._machine = machine
        self.make_source = make_source
        self.state: dict[str, Any] | None = None  # of the last download; never changed
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()  # of the last download

    def local(self) -> list[dict[str, Any]]:
        """Return the models that are here as a whole, but the demo."""
        return [
            {"name": model.name, "bytes": model.bytes, "kind": model.kind}
            for model in self._hub.list_models()
            if model.complete and model.name != DEMO
        ]

    def published(self) -> list[dict[str, Any]]:
        """Return the published models: size, memory, expected speed, or why not."""
        machine, budget = self._machine()
        return [self._describe(name, machine, budget) for name in PUBLISHED]

    def start(self, model: str) -> None:
        """Start to download a model. Raises ApiError (400, 409)."""
        if model not in PUBLISHED:
            raise ApiError(400, f"`{model}` cannot be downloaded here", "unknown_model")
        if self._options.offline:
            raise ApiError(400, "this server was started with --offline", "offline")
        with self._lock:
            if self._running:
                raise ApiError(409, "another download is running", "downloading")
            before, self._stopping = self._thread, threading.Event()
            self.state = {"model": model, "done": 0, "total": 0, "state": RUNNING}
            self.state |= {"lines": [], "problem": None}
            self._thread = threading.Thread(
                target=self._download,
                args=(model, self._stopping, before),
                daemon=True,
                name="download",
            )
            self._thread.start()

    def stop(self) -> None:
        """Stop the download, if one runs; what has arrived stays.

        Its thread ends when it next hears from the Hub; a later download waits for it.
        """
        with self._lock:
            if self._running:
                assert self.state is not None
                self.state = self.state | {"state": "stopped"}
                self._stopping.set()

    @property
    def _running(self) -> bool:
        return self.state is not None and self.state["state"] == RUNNING

    def is_here(self, model: str) -> bool:
        """Whether a model is one of those on this machine, as a whole."""
        return any(one["name"] == model for one in self.local())

    def _download(
        self, model: str, stopping: threading.Event, before: threading.Thread | None
    ) -> None:
        """Download a model, after the thread of an earlier download has ended."""
        lines: list[str] = []

        def tell(**changes: Any) -> None:
            with self._lock:
                if stopping.is_set():
                    raise DownloadStopped
                assert self.state is not None
                self.state = self.state | changes

        def progress(done: int, total: int) -> None:
            tell(done=done, total=total)

        def say(line: str) -> None:
            lines.append(line)
            tell(lines=lines[-MOST_LINES:])

        # A fault of ours, which the log names, ends it like this:
        end = {"state": "failed", "problem": "see the server's log"}
        try:
            if before is not None:
                before.join()
            check = self._check(model)
            self._hub.resolve(model, progress=progress, check=check, notify=say)
            end = {"state": "finished"}
        except DownloadStopped:
            end = {}
        except GptOssError as error:
            end = {"state": "failed", "problem": str(error)}
        finally:
            with suppress(DownloadStopped):
                tell(**end)

    def _check(self, model: str) -> Callable[[Path, int], None]:
        return download_check(model, self._options)

    def _describe(self, name: str, machine: Machine, budget: Budget) -> dict[str, Any]:
        shape = find_published_model(name)
        assert shape is not None
        subject = model_from_shape(shape, name)
        size = sum(subject.bytes_by_part.values())
        row: dict[str, Any] = {
            "name": name,
            "bytes": size,
            "here": self._hub.cached(name) is not None,
        }
        try:
            found = forecast(subject, self._options, budget, machine)
        except GptOssError as error:
            return row | {"fits": False, "problem": str(error)}
        speed = found.prediction.tokens_per_second
        return row | {
            "fits": True,
            "mode": found.plan.mode,
            "memory": found.plan.total_bytes,
            "speed": [speed.low, speed.high],
        }
