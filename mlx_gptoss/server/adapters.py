"""The adapters of a folder: each subfolder is one, by its name.

    adapters = AdapterFolder(Path("adapters"))
    adapters.usable(config)           # what a model can be loaded with
    state = adapters.follow(runtime, given=["french"])
    state.refresh()                   # load what is new or changed, remove what is gone

Clients name adapters; they never give paths. Blocks on files: call it in a thread.
"""

import logging
import threading
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint.adapters import (
    adapter_files,
    is_adapter_folder,
    open_adapter,
)
from mlx_gptoss.engine.adapter_loading import load_adapter
from mlx_gptoss.engine.adapter_source import is_adapter_name
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import GptOssError, StorageError
from mlx_gptoss.files import explain_os_error
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import ADAPTER_CONFIG

log = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int], ...]  # name, bytes and time of change of each file


@dataclass(frozen=True)
class FoundAdapter:
    """A subfolder with an adapter; its stamp changes with its files."""

    folder: Path
    stamp: Stamp


class AdapterFolder:
    """A folder of adapters. Raises StorageError if it cannot be listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._refused: set[str] = set()  # names that were warned of
        self.list()

    def list(self) -> dict[str, FoundAdapter]:
        """Return the adapters in the folder by name, in order."""
        try:
            folders = sorted(path for path in self.root.iterdir() if path.is_dir())
            folders = [path for path in folders if is_adapter_folder(path)]
            stamps = [_stamp(path) for path in folders]
        except OSError as error:
            raise StorageError(
                f"the adapters in `{self.root}` cannot be listed: "
                f"{explain_os_error(error)}"
            ) from error
        found = {}
        for path, stamp in zip(folders, stamps, strict=True):
            if is_adapter_name(path.name):
                found[path.name] = FoundAdapter(path, stamp)
            elif path.name not in self._refused:
                self._refused.add(path.name)
                log.warning("`%s` is no name for an adapter: rename the folder", path)
        return found

    def usable(self, config: ModelConfig) -> dict[str, Path]:
        """Return the folders of the adapters that fit a model, by name; reads all.

        The others are logged.
        """
        fitting: dict[str, Path] = {}
        for name, found in self.list().items():
            try:
                for _ in open_adapter(found.folder, config).updates():
                    pass  # its values are checked as they are read
            except GptOssError as error:
                log_refusal(name, error)
            else:
                fitting[name] = found.folder
        return fitting

    def follow(self, runtime: Runtime, given: Container[str]) -> "FollowedAdapters":
        """Follow the changes of the folder for a model that has just been loaded.

        `given` are the names of its adapters that are not from the folder.
        """
        return FollowedAdapters(self, runtime, given)


class FollowedAdapters:
    """What a loaded model has of a folder. Adapters from elsewhere are left alone."""

    def __init__(
        self, source: AdapterFolder, runtime: Runtime, given: Container[str]
    ) -> None:
        self._given = given
        self._source = source
        self._runtime = runtime
        self._lock = threading.Lock()
        found = source.list()
        self._tried = {name: one.stamp for name, one in found.items()}
        own = found.keys() & runtime.adapters.keys()
        self._ours = {name for name in own if name not in given}

    def refresh(self) -> None:
        """Load what is new or has changed; remove what is gone. Logs what fails.

        An adapter whose changed files cannot be used stays as it was.
        """
        with self._lock:
            try:
                found = self._source.list()
            except StorageError as error:
                log.warning("%s", error)
                return
            for name in self._tried.keys() - found.keys():
                self._remove(name)
            for name, one in found.items():
                if self._tried.get(name) != one.stamp:
                    self._tried[name] = one.stamp
                    self._load(name, one.folder)

    def _load(self, name: str, folder: Path) -> None:
        if name in self._given:
            log.warning("adapter `%s` was given with `--adapter`: it stays", name)
            return
        try:
            load_adapter(self._runtime, folder, name)
        except GptOssError as error:
            log_refusal(name, error)
            return
        self._ours.add(name)
        log.info("loaded the adapter `%s`", name)

    def _remove(self, name: str) -> None:
        del self._tried[name]
        if name in self._ours:
            self._ours.remove(name)
            self._runtime.remove_adapter(name)
            log.info("removed the adapter `%s`", name)


def log_refusal(name: str, error: GptOssError) -> None:
    log.warning("the adapter `%s` is not served: %s", name, error)


def _stamp(folder: Path) -> Stamp:
    files = [folder / ADAPTER_CONFIG, *adapter_files(folder)]
    facts = [(path.name, path.stat()) for path in files if path.exists()]
    return tuple((name, fact.st_size, fact.st_mtime_ns) for name, fact in facts)
