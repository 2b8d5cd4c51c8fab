"""Read PDFs in a process that is killed when it takes too long or too much memory.

A process reads one file and ends. Texts are remembered, because a conversation comes
with all its files again at every turn.
"""

import hashlib
import json
import subprocess
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import psutil

from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.python_child import python_executable, search_path

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mlx_gptoss.harmony.pdf.child import main; main(*map(int, sys.argv[2:]))"
)
AT_ONCE = 2  # processes
TICK_SECONDS = 0.05  # between looks at a process
REMEMBERED_CHARACTERS = 1 << 24
MIB = 1 << 20


class PdfError(GptOssError):
    """A PDF has no text to read; the message continues `it ...`."""


@dataclass(frozen=True)
class PdfLimits:
    """What a PDF may take: what exceeds a limit is refused, never shortened.

    `cpu_seconds` and `memory` (bytes, resident) are those of the process that reads
    it; `seconds` end one that does nothing.
    """

    pages: int = 1000
    characters: int = 4_000_000
    cpu_seconds: float = 30.0
    seconds: float = 300.0
    memory: int = 1 << 30


class Texts:
    """Texts of PDFs by the digest of the file, the latest used ones. Thread-safe."""

    def __init__(self, most_characters: int = REMEMBERED_CHARACTERS) -> None:
        self._most = most_characters
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> str | None:
        with self._lock:
            if digest in self._texts:
                self._texts.move_to_end(digest)
            return self._texts.get(digest)

    def put(self, digest: bytes, text: str) -> None:
        with self._lock:
            self._texts[digest] = text
            while sum(map(len, self._texts.values())) > self._most:
                self._texts.popitem(last=False)


_texts = Texts()
_free = threading.BoundedSemaphore(AT_ONCE)


def read_pdf(data: bytes, limits: PdfLimits | None = None) -> str:
    """Return the text of a PDF, page by page. Raises PdfError.

    Waits for the process; any thread may call it.
    """
    digest = hashlib.sha256(data).digest()
    if limits is None and (text := _texts.get(digest)) is not None:
        return text
    with _free:
        answer = _ask(data, limits or PdfLimits())
    if "error" in answer:
        raise PdfError(answer["error"])
    if limits is None:
        _texts.put(digest, answer["text"])
    return answer["text"]


def _ask(data: bytes, limits: PdfLimits) -> dict[str, Any]:
    """Let a process read a PDF; return its answer. Raises PdfError."""
    numbers = map(str, (limits.pages, limits.characters))
    try:
        process = subprocess.Popen(
            [python_executable(), "-I", "-c", START, search_path(), *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # signals of a terminal are for the parent
        )
    except OSError as error:
        raise PdfError(f"cannot be read now: {error.strerror}") from error
    with process:
        try:
            found = _watch(process, data, limits)
        finally:
            process.kill()
    try:
        return json.loads(found)
    except ValueError:  # the process ended without an answer
        raise PdfError("is damaged") from None


def _watch(process: "subprocess.Popen[bytes]", data: bytes, limits: PdfLimits) -> bytes:
    """Return what a process writes. Raises PdfError once it exceeds a limit."""
    until = time.monotonic() + limits.seconds
    given: bytes | None = data
    while True:
        _check(process.pid, limits)
        if time.monotonic() > until:
            raise PdfError(f"takes longer than {limits.seconds:.0f} s to read")
        try:
            return process.communicate(given, timeout=TICK_SECONDS)[0]
        except subprocess.TimeoutExpired:
            given = None  # it goes on with what is left


def _check(pid: int, limits: PdfLimits) -> None:
    try:
        process = psutil.Process(pid)
        memory, times = process.memory_info().rss, process.cpu_times()
    except psutil.Error:  # it has ended
        return
    if memory > limits.memory:
        raise PdfError(f"takes more than {limits.memory // MIB} MiB to read")
    if times.user + times.system > limits.cpu_seconds:
        raise PdfError(f"takes longer than {limits.cpu_seconds:.0f} s to read")
