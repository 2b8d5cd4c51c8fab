"""One file of the Hub into its part on disk, going on where that stopped.

A connection that breaks is tried again as long as something comes in between. A file
that is not what the Hub says starts over, once.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.checkpoint.hub.library import Report, library
from mlx_gptoss.checkpoint.hub.partial_file import Part
from mlx_gptoss.checkpoint.hub.ranges import (
    RANGE_REFUSED,
    continues,
    is_something_else,
    open_from,
)
from mlx_gptoss.checkpoint.hub.retries import (
    Patience,
    Say,
    ShortError,
    StorageError,
    Wait,
    passing_errors,
)
from mlx_gptoss.errors import HubError
from mlx_gptoss.memory import format_bytes

GAIN = 10**6  # bytes further than ever before: the tries start anew


@dataclass(frozen=True)
class Remote:
    """A file on the Hub: `url` is the Hub's own, the rest is said of its bytes."""

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
    """What has come is not the file."""


def look_up(model: str, name: str, url: str, *, wait: Wait, say: Say) -> Any:
    """Ask the Hub for the etag and size of a file."""
    patience = Patience(wait, say)
    while True:
        try:
            facts = library().get_hf_file_metadata(url)
        except passing_errors() as error:
            patience.after(error)
            continue
        if not facts.etag:
            raise HubError(
                f"the Hub names no version (ETag) of `{name}` of `{model}`: check "
                "`HF_ENDPOINT` and your proxy"
            )
        return facts


@dataclass
class Transfer:
    """Makes a part the whole of a remote file; raises HubError where that fails."""

    remote: Remote
    part: Part
    report: Report
    say: Say
    wait: Wait = time.sleep
    _furthest: int = field(default=0, init=False)
    _ended: bool = field(default=False, init=False)  # for a file of unknown size

    def run(self) -> None:
        """Download what is missing, and check all of it."""
        patience = Patience(self.wait, self.say)
        restarted = False
        while True:
            try:
                self._complete(patience)
                return
            except _DamagedError as damage:
                self._start_over()
                if restarted:
                    raise HubError(
                        f"{self.remote.title} came damaged twice ({damage}): nothing "
                        "of it is kept, try again later"
                    ) from damage
                restarted = True
                self.say(f"{self.remote.title} starts over: {damage}")

    def _complete(self, patience: Patience) -> None:
        while not self._is_whole():
            try:
                self._receive(patience)
            except passing_errors() as error:
                try:
                    patience.after(error)
                except (ShortError, StorageError) as last:
                    raise HubError(
                        f"{self.remote.title}: {last}; what has come is kept, run the "
                        "same command later to go on there"
                    ) from last
        if not self.part.is_valid(self.remote.sha256):
            raise _DamagedError("its SHA-256 is not the one that the Hub names")

    def _is_whole(self) -> bool:
        size = self.remote.size
        if size is not None and self.part.size > size:
            raise _DamagedError(
                f"it has {self.part.size} bytes, the Hub's file has {size}"
            )
        return self._ended if size is None else self.part.size == size

    def _receive(self, patience: Patience) -> None:
        """Take one answer into the part."""
        remote, start = self.remote, self.part.size
        with open_from(remote.url, start, remote.etag) as response:
            if response.status_code == RANGE_REFUSED:
                raise _DamagedError(f"the Hub has nothing from byte {start} on")
            if not continues(response, start, remote.size):
                if is_something_else(response, remote.size):
                    raise ShortError("what came is not the file")
                if start == 0:
                    raise _DamagedError("the answer does not begin at the beginning")
                self._start_over()
                if not continues(response, 0, remote.size):
                    raise _DamagedError("the answer does not go on where it stopped")
                self.say(
                    f"{remote.title} starts over: the server sends whole files only"
                )
            for chunk in response.iter_bytes():
                self.part.write(chunk)
                self._is_whole()  # no more than it should be
                if self.part.size >= self._furthest + GAIN:
                    self._furthest = self.part.size
                    patience.renew()
                self.report(self.part.size)
        self._ended = True
        if not self._is_whole():
            here, size = self.part.size, remote.size or 0
            raise ShortError(
                f"the answer ended at {format_bytes(here)} of {format_bytes(size)}"
            )

    def _start_over(self) -> None:
        self.part.clear()
        self._ended = False
        self.report(0)
