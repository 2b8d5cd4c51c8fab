"""The exit waits for files that a thread of MLX still holds."""

import threading
from time import monotonic, sleep

import mlx.core as mx
import pytest

from mlx_gptoss.model import buffers
from mlx_gptoss.model.buffers import HeaderOnlyFile, empty, wait_for_release


def hold(file: HeaderOnlyFile) -> None:
    buffers._held_files.add(file)


def test_the_exit_waits_until_a_file_is_released() -> None:
    def release_late(held: list[HeaderOnlyFile]) -> None:
        sleep(0.2)
        held.clear()

    held = [HeaderOnlyFile((1,), mx.uint8)]
    hold(held[0])
    thread = threading.Thread(target=release_late, args=(held,))
    thread.start()
    wait_for_release()

    assert held == []
    thread.join()


def test_but_no_longer_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "EXIT_SECONDS", 0.05)
    file = HeaderOnlyFile((1,), mx.uint8)
    hold(file)
    began = monotonic()
    wait_for_release()

    assert monotonic() - began >= 0.05
    assert file in buffers._held_files


def test_an_empty_array_keeps_no_file() -> None:
    arrays = [empty((n, 3), mx.float32) for n in range(1, 9)]
    wait_for_release()

    assert len(buffers._held_files) == 0
    assert [array.shape for array in arrays] == [(n, 3) for n in range(1, 9)]
