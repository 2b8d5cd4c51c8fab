import threading
from collections.abc import Iterator

import pytest

from mlx_gptoss_convert.steps.workers import map_in_order, worker_count


def test_results_come_in_the_order_of_the_pieces() -> None:
    pieces = 3 * worker_count() + 1
    first_may_end = threading.Event()

    def work(piece: int) -> int:
        if piece == 0 and worker_count() > 1:
            first_may_end.wait()
        first_may_end.set()
        return piece * piece

    assert list(map_in_order(work, range(pieces))) == [n * n for n in range(pieces)]


def test_pieces_are_taken_only_as_they_are_needed() -> None:
    taken = []

    def pieces() -> Iterator[int]:
        for piece in range(100):
            taken.append(piece)
            yield piece

    results = map_in_order(str, pieces())
    assert next(results) == "0"
    assert len(taken) == worker_count() + 1
    results.close()
    assert len(taken) == worker_count() + 1


def test_an_error_is_raised_where_its_result_would_have_come() -> None:
    def work(piece: int) -> float:
        return 6 / piece

    results = map_in_order(work, [3, 0, 1])
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_the_pieces_goes_through() -> None:
    def pieces() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(map_in_order(str, pieces()))
