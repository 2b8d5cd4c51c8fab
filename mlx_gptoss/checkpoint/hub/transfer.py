"""Download one file of the Hub, resuming its partial file.

A broken connection is retried as long as there is progress. A file that does not match
the Hub's size or hash is restarted once.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.checkpoint.hub.library import ReportBytes, library
from mlx_gptoss.checkpoint.hub.partial_file import PartialFile
from mlx_gptoss.checkpoint.hub.ranges import (
    RANGE_REFUSED,
    continues_at,
    is_other_content,
    open_range,
)
from mlx_gptoss.checkpoint.hub.retries import (
    Notify,
    RetryPolicy,
    Sleep,
    StorageHostError,
    TruncatedError,
    retryable_errors,
)
from mlx_gptoss.errors import HubError
from mlx_gptoss.memory import format_bytes

RESET_BYTES = 10**6  # bytes of progress after which the retry delays are reset


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub; `url` is the Hub's own."""

    model: str
    name: str
    url: str
    etag: str
    size: int | None
    sha256: str | None

    @property
    def title(self) -> str:
        return f"`{self.name}` of `{self.model}`"


class _DamagedError(Exception):
    """The received bytes are not those of the file."""


def fetch_metadata(
    model: str, name: str, url: str, *, sleep: Sleep, notify: Notify
) -> Any:
    """Request the etag and size of a file."""
    patience = RetryPolicy(sleep, notify)
    while True:
        try:
            facts = library().get_hf_file_metadata(url)
        except retryable_errors() as error:
            patience.wait_or_raise(error)
            continue
        if not facts.etag:
            raise HubError(
                f"the Hub gives no ETag for `{name}` of `{model}`: check "
                "`HF_ENDPOINT` and your proxy"
            )
        return facts


@dataclass
class Transfer:
    """Completes the partial file of a remote file; raises HubError."""

    remote: RemoteFile
    file: PartialFile
    report: ReportBytes
    notify: Notify
    sleep: Sleep = time.sleep
    _furthest: int = field(default=0, init=False)
    _ended: bool = field(default=False, init=False)  # for a file of unknown size

    def run(self) -> None:
        """Download what is missing, and check all of it."""
        patience = RetryPolicy(self.sleep, self.notify)
        restarted = False
        while True:
            try:
                self._complete(patience)
                return
            except _DamagedError as damage:
                self._restart()
                if restarted:
                    raise HubError(
                        f"{self.remote.title} arrived damaged twice ({damage}): it was "
                        "discarded, try again later"
                    ) from damage
                restarted = True
                self.notify(f"{self.remote.title} is restarted: {damage}")

    def _complete(self, patience: RetryPolicy) -> None:
        while not self._is_complete():
            try:
                self._receive(patience)
            except retryable_errors() as error:
                try:
                    patience.wait_or_raise(error)
                except (TruncatedError, StorageHostError) as last:
                    raise HubError(
                        f"{self.remote.title}: {last}; received data is kept, run the "
                        "same command later to resume"
                    ) from last
        if not self.file.is_valid(self.remote.sha256):
            raise _DamagedError("its SHA-256 differs from the Hub's")

    def _is_complete(self) -> bool:
        size = self.remote.size
        if size is not None and self.file.size > size:
            raise _DamagedError(
                f"it has {self.file.size} bytes, the Hub's file has {size}"
            )
        return self._ended if size is None else self.file.size == size

    def _receive(self, patience: RetryPolicy) -> None:
        """Append one response to the partial file."""
        remote, start = self.remote, self.file.size
        with open_range(remote.url, start, remote.etag) as response:
            if response.status_code == RANGE_REFUSED:
                raise _DamagedError(f"the Hub has nothing from byte {start}")
            if not continues_at(response, start, remote.size):
                if is_other_content(response, remote.size):
                    raise TruncatedError("the response is not the file")
                if start == 0:
                    raise _DamagedError("the response does not start at byte 0")
                self._restart()
                if not continues_at(response, 0, remote.size):
                    raise _DamagedError("the response does not continue the file")
                self.notify(
                    f"{remote.title} is restarted: the server sends only whole files"
                )
            for chunk in response.iter_bytes():
                self.file.write(chunk)
                self._is_complete()  # raises if too long
                if self.file.size >= self._furthest + RESET_BYTES:
                    self._furthest = self.file.size
                    patience.reset()
                self.report(self.file.size)
        self._ended = True
        if not self._is_complete():
            here, size = self.file.size, remote.size or 0
            raise TruncatedError(
                f"the response ended at {format_bytes(here)} of {format_bytes(size)}"
            )

    def _restart(self) -> None:
        self.file.clear()
        self._ended = False
        self.report(0)
