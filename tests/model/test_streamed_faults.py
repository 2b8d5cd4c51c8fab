"""Faults while experts are read: a named error, and no wrong result.

They are injected into the reader's one system call.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EIO
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.expert_records import expert_records
from mlx_gptoss.errors import CheckpointError, GptOssError, MemoryBudgetError
from mlx_gptoss.model.device import on_gpu
from mlx_gptoss.model.experts.reader import ExpertReader, ReadRange
from mlx_gptoss.model.experts.slots import Slots
from tests.support.streaming import Streamed, resident, streamed, write

Call = Callable[[int, Sequence[memoryview], int], int]
PROMPT = mx.array([list(range(3, 40))])
exact = pytest.mark.skipif(on_gpu(), reason="kernels of a GPU round differently")


class Faults:
    """`preadv` with injected faults; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.act: Call | None = None
        self._lock = threading.Lock()

    def __call__(self, descriptor: int, out: Sequence[memoryview], at: int) -> int:
        with self._lock:
            self.calls += 1
        if self.act is not None:
            return self.act(descriptor, out, at)
        return os.preadv(descriptor, out, at)


@contextmanager
def faulty(checkpoint: Checkpoint, slots: int = 4) -> Iterator[tuple[Streamed, Faults]]:
    faults = Faults()
    paths = [path for x in expert_records(checkpoint).values() for path in x.files]
    reader = ExpertReader(paths, preadv=faults)
    with streamed(checkpoint, slots, reader=reader) as found:
        yield found, faults


def short(descriptor: int, out: Sequence[memoryview], at: int) -> int:
    """Read a third of the requested bytes, as a system may."""
    return os.preadv(descriptor, [out[0][: max(1, len(out[0]) // 3)]], at)


def failing(descriptor: int, out: Sequence[memoryview], at: int) -> int:
    out[0][: len(out[0]) // 2] = bytes(len(out[0]) // 2)  # half a slot is spoilt
    raise OSError(EIO, os.strerror(EIO))


def ended(descriptor: int, out: Sequence[memoryview], at: int) -> int:
    return 0


class Once:
    """Fails in one call of many, on any thread, and never again."""

    def __init__(self, act: Call, after: int) -> None:
        self._act, self._left = act, after
        self._lock = threading.Lock()

    def __call__(self, descriptor: int, out: Sequence[memoryview], at: int) -> int:
        with self._lock:
            self._left -= 1
            fails = self._left == 0
        if fails:
            return self._act(descriptor, out, at)
        return os.preadv(descriptor, out, at)


@exact
def test_short_reads_are_gone_on_with(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    expected = resident(checkpoint)(PROMPT)
    with faulty(checkpoint) as (found, faults):
        faults.act = short
        assert mx.array_equal(found.model(PROMPT), expected)


@exact
@pytest.mark.parametrize("tokens", [1, 37])
@pytest.mark.parametrize("after", [1, 3, 9])
@pytest.mark.parametrize(
    ("act", "message"),
    [(failing, "Input/output error"), (ended, "ended inside expert")],
)
def test_a_failed_read_stops_the_run_and_spoils_nothing(
    act: Call, message: str, after: int, tokens: int, tmp_path: Path
) -> None:
    checkpoint = write(tmp_path)
    prompt = PROMPT[:, :tokens]
    expected = resident(checkpoint)(prompt)
    with faulty(checkpoint) as (found, faults):
        faults.act = Once(act, after)
        with pytest.raises(CheckpointError, match=message):
            mx.eval(found.model(prompt))
        faults.act = None
        for _ in range(2):  # a new run reads again what was not whole
            assert mx.array_equal(found.model(prompt), expected)


@exact
def test_no_thread_writes_into_slots_after_a_failure(tmp_path: Path) -> None:
    """One read fails at once while others are in flight: they are waited for."""
    checkpoint = write(tmp_path)
    expected = resident(checkpoint)(PROMPT[:, :1])
    under_way, slow = threading.Event(), threading.Semaphore(1)
    finished: list[int] = []

    def act(descriptor: int, out: Sequence[memoryview], at: int) -> int:
        if slow.acquire(blocking=False):
            under_way.wait(10)  # until another one has failed
            count = os.preadv(descriptor, out, at)
            finished.append(count)
            return count
        under_way.set()
        raise OSError(EIO, os.strerror(EIO))

    with faulty(checkpoint) as (found, faults):
        faults.act = act
        with pytest.raises(CheckpointError):
            found.model(PROMPT[:, :1])
        assert len(finished) == 1  # before the error was raised
        faults.act = None
        assert mx.array_equal(found.model(PROMPT[:, :1]), expected)


@pytest.mark.parametrize("how", ["truncated", "rewritten", "replaced", "removed"])
def test_files_that_change_while_running_are_named(how: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    path = checkpoint.files[0]
    with faulty(checkpoint, slots=3) as (found, _):
        mx.eval(found.model(PROMPT[:, :2]))
        if how == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        elif how == "rewritten":
            content = path.read_bytes()
            path.write_bytes(content[::-1])
            os.utime(path, ns=(0, 0))
        elif how == "replaced":
            other = path.with_suffix(".new")
            other.write_bytes(path.read_bytes())
            other.replace(path)
        else:
            path.unlink()
        with pytest.raises(CheckpointError, match="changed while the model was") as e:
            mx.eval(found.model(PROMPT))
        assert str(path) in str(e.value)


def test_a_file_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/fd"))
    (tmp_path / "one").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="No such file"):
        ExpertReader([tmp_path / "one", tmp_path / "two"])
    assert len(os.listdir("/dev/fd")) == len(before)


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"abcd")
    reader = ExpertReader([tmp_path / "one"])
    out = bytearray(2)
    reader.start([ReadRange("it", tmp_path / "one", 1, memoryview(out))]).wait()
    reader.close()
    reader.close()
    assert bytes(out) == b"bc"


def test_an_expert_out_of_range_is_named() -> None:
    slots = Slots(4, 9, layer=7)
    with pytest.raises(CheckpointError, match="layer 7 chose expert 9 of 9"):
        slots.touch([3, 9])


def test_a_pool_too_small_for_what_is_in_use_is_named() -> None:
    slots = Slots(3, 9, layer=2)
    slots.assign([0, 1, 2], slots.allocate(3, ()))
    with pytest.raises(MemoryBudgetError, match="layer 2 needs 1 slots beside 3"):
        slots.allocate(1, {0, 1, 2})


def test_the_oldest_goes_first_but_never_what_is_in_use() -> None:
    slots = Slots(3, 9)
    slots.assign([0, 1, 2], slots.allocate(3, ()))
    assert slots.touch([0, 1]) == []
    slots.touch([2])  # 0 is now the oldest
    (freed,) = slots.allocate(1, {0})
    slots.assign([5], [freed])
    assert slots.cached == [0, 2, 5]
    assert slots.table.tolist()[5] == freed  # pyright: ignore[reportIndexIssue]


def test_a_closed_storage_says_so_instead_of_reading(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    found = streamed(checkpoint, 3)
    found.storage.close()
    with pytest.raises((GptOssError, RuntimeError)):
        mx.eval(found.model(PROMPT))
