"""Lone surrogates in requests are replaced, and threads run meanwhile."""

import threading
import time

from mlx_gptoss.api.wire import replace_lone_surrogates


def test_half_surrogates_are_replaced_wherever_a_text_is_cut() -> None:
    text = "a\ud800😀\udc00é" * 9_000

    assert replace_lone_surrogates([text]) == ["a�😀�é" * 9_000]


def test_other_threads_go_on_while_half_surrogates_are_replaced() -> None:
    text, ended, waits = "\ud800" * 400_000, threading.Event(), list[float]()

    def tick() -> None:
        while not ended.is_set():
            began = time.monotonic()
            ended.wait(0.001)
            waits.append(time.monotonic() - began)

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.monotonic()
    replace_lone_surrogates(text)
    took = time.monotonic() - began
    ended.set()
    ticking.join()

    assert max(waits) < took / 2
