"""With the cache on and off the logits agree and the same tokens come out.

The cases are those in which other programs on MLX answer wrongly or read all again.
"""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.engine.prompt_cache import PromptCache, PromptFiles
from mlx_gptoss.memory import kv_bytes
from mlx_gptoss.model.gpt_oss import GptOss
from mlx_gptoss.model.kv_sizes import pool_bytes
from tests.support.build_model import build
from tests.support.cached_conversation import (
    CALL,
    END,
    MESSAGE_ENDS,
    OPENING,
    RETURN,
    START,
    TEXT,
    CachedConversation,
    Ids,
    message,
)
from tests.support.checkpoints import hf_config, random_tensors

WINDOW = 8
ROOMY = 10**9
TIES = 0.01  # the share of requests that may end at one

SYSTEM = message(*range(20, 45))
ASK = message(*range(50, 62))
MORE = message(7, 5, 3)


@pytest.fixture(scope="module")
def model() -> GptOss:
    config = hf_config(num_hidden_layers=2, sliding_window=WINDOW)
    return build(config, random_tensors(config, seed=8))


def talk(
    model: GptOss, limit: int = ROOMY, files: PromptFiles | None = None
) -> CachedConversation:
    cache = PromptCache(
        model.make_pool(), message_ends=MESSAGE_ENDS, limit=limit, files=files
    )
    return CachedConversation(model, cache)


def turn(it: CachedConversation, history: Ids) -> tuple[int, Ids, Ids]:
    """Answer after `history`; return what was known, the thinking, the answer."""
    known, said = it.ask([*history, *OPENING], 14, [END, *OPENING], 9, [RETURN])
    thinking, answer = said[:14], said[14 + 1 + len(OPENING) : -1]
    return known, [*OPENING, *thinking, END], [*OPENING, *answer, END]


def test_the_turn_after_dropped_analysis(model: GptOss) -> None:
    it = talk(model)
    _, _, answer = turn(it, SYSTEM + ASK)

    known, _, _ = turn(it, SYSTEM + ASK + answer + MORE)

    assert known == len(SYSTEM + ASK)


def test_the_turn_after_reading_ahead(model: GptOss) -> None:
    it = talk(model)
    _, _, answer = turn(it, SYSTEM + ASK)
    it.prepare(SYSTEM + ASK + answer)

    known, _, _ = turn(it, SYSTEM + ASK + answer + MORE)

    assert known == len(SYSTEM + ASK + answer)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_reading_ahead_that_was_cancelled(model: GptOss, steps: int) -> None:
    it = talk(model)
    _, _, answer = turn(it, SYSTEM + ASK)
    it.prepare(SYSTEM + ASK + answer, steps)

    known, _, _ = turn(it, SYSTEM + ASK + answer + MORE)

    assert known == len(SYSTEM + ASK) + 5 * steps


def test_an_edited_question(model: GptOss) -> None:
    it = talk(model)
    _, _, answer = turn(it, SYSTEM + ASK)
    turn(it, SYSTEM + ASK + answer + MORE)

    edited = message(*range(50, 60), 3)

    assert turn(it, SYSTEM + edited)[0] == len(SYSTEM)
    assert turn(it, SYSTEM + ASK + answer + message(4))[0] == len(SYSTEM + ASK + answer)


def test_regenerating(model: GptOss) -> None:
    it = talk(model)
    first = turn(it, SYSTEM + ASK)

    again = turn(it, SYSTEM + ASK)

    assert again == (len(SYSTEM + ASK), *first[1:])


def test_undoing_a_turn(model: GptOss) -> None:
    it = talk(model)
    _, _, answer = turn(it, SYSTEM + ASK)
    turn(it, SYSTEM + ASK + answer + MORE)

    known, _, _ = turn(it, SYSTEM + ASK + answer + message(1, 2))

    assert known == len(SYSTEM + ASK + answer)


def test_a_branch_at_a_tool_result(model: GptOss) -> None:
    it = talk(model)
    prompt = [*SYSTEM, *ASK, *OPENING]
    _, said = it.ask(prompt, 14, [END, *OPENING], 6, [CALL])
    results = [message(n, n + 1, n) for n in (80, 90, 80)]

    known = [it.ask([*prompt, *said, *r, *OPENING], 9)[0] for r in results]

    called = len(prompt + said)
    assert known == [called, called, called + len(results[0])]


def test_a_call_that_history_writes_otherwise(model: GptOss) -> None:
    it = talk(model)
    prompt = [*SYSTEM, *ASK, *OPENING]
    _, said = it.ask(prompt, 14, [END, *OPENING], 6, [CALL])
    rewritten = [*said[:17], 5, *said[18:]]

    known, _ = it.ask([*prompt, *rewritten, *message(80), *OPENING], 9)

    assert known == len(prompt) + 15  # to the end of the thinking


def test_an_exact_repeat_past_the_window(model: GptOss) -> None:
    it = talk(model)
    prompt = [n % TEXT for n in range(100)]

    answers = [it.ask(prompt, 9) for _ in range(3)]

    assert [known for known, _ in answers] == [0, 99, 99]
    assert answers[0][1] == answers[1][1] == answers[2][1]


def test_two_sessions_that_share_the_system_block_only(model: GptOss) -> None:
    it = talk(model)
    one, other = SYSTEM + ASK, SYSTEM + MORE
    known = []
    for _ in range(3):
        for history in (one, other):
            before, _, answer = turn(it, history)
            known.append(before)
            history += [*answer, *message(len(history) % TEXT)]

    assert known[:2] == [0, len(SYSTEM)]
    assert all(before > len(SYSTEM) for before in known[2:])


@pytest.mark.parametrize(("digest", "found"), [("same", True), ("upgraded", False)])
def test_a_restart_from_disk(
    model: GptOss, tmp_path: Path, digest: str, found: bool
) -> None:
    def on_disk(digest: str) -> PromptFiles:
        return PromptFiles(tmp_path, digest, model.config, mx.float32, ROOMY)

    it = talk(model, files=on_disk("same"))
    _, _, answer = turn(it, SYSTEM + ASK)
    it.prepare(SYSTEM + ASK + answer)

    again = talk(model, files=on_disk(digest))

    known, _, _ = turn(again, SYSTEM + ASK + answer + MORE)
    assert known == (len(SYSTEM + ASK + answer) if found else 0)


def test_evicted_prompts_are_read_again(model: GptOss) -> None:
    it = talk(model, limit=0)
    histories = [message(n, *range(60)) for n in range(3)]

    known = [turn(it, history)[0] for history in (*histories, *histories)]

    assert known == [0] * 6


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["go on", "go on", "edit", "again", "branch", "ahead", "stop"]),
        st.integers(0, 10**6),
    ),
    min_size=5,
    max_size=10,
)


def converse(
    model: GptOss, operations: list[tuple[str, int]], limit: int, chunk: int
) -> tuple[int, int]:
    """Grow a tree of conversations; return requests, and those that ended at a tie."""
    it = talk(model, limit)
    it.chunk = chunk
    histories: list[list[Ids]] = [[SYSTEM]]  # of messages
    requests = tied = 0
    for operation, draw in operations:
        place = draw % len(histories)
        history = histories[place]
        question = message(*(draw // n % TEXT for n in range(2, 2 + draw % 11)))
        if operation == "ahead":
            it.prepare([n for one in history for n in one], draw % 4)
            continue
        if operation == "edit":
            history = history[: 1 + 2 * (draw % 2)]
        if operation == "branch":
            histories.append(list(history))
        if operation == "again" and len(history) > 2:
            history, question = history[:-2], history[-2]
        prompt = [n for one in [*history, question] for n in one] + OPENING
        thinking, answer = draw % 7, 1 + draw % 5
        ties = it.compared.ties
        if operation == "stop":
            it.ask(prompt, thinking)
        else:
            parts = (thinking, [END, *OPENING], answer, [RETURN])
            _, said = it.ask(prompt, *parts)
            last = [*OPENING, *said[-answer - 1 : -1], END]
            histories[place] = [*history, question, last]
        requests += 1
        tied += it.compared.ties > ties
    return requests, tied


def random_trees(model: GptOss, examples: int) -> tuple[int, int]:
    counts = [0, 0]

    @settings(max_examples=examples, deadline=None, database=None)
    @given(OPERATIONS, st.sampled_from([ROOMY, 100_000, 0]), st.sampled_from([512, 7]))
    def run(operations: list[tuple[str, int]], limit: int, chunk: int) -> None:
        requests, tied = converse(model, operations, limit, chunk)
        counts[0] += requests
        counts[1] += tied

    run()
    return counts[0], counts[1]


@pytest.mark.parametrize(
    "examples", [10, pytest.param(2000, marks=pytest.mark.soak)], ids=["short", "soak"]
)
def test_random_conversations_are_the_same_without_the_cache(
    model: GptOss, examples: int, record_property: Callable[[str, object], None]
) -> None:
    requests, tied = random_trees(model, examples)

    print(f"{tied} of {requests} requests ended at a tie")
    record_property("requests", requests)
    record_property("ended at a tie", tied)
    assert requests > examples
    assert tied < max(1, TIES * requests)


@pytest.mark.parametrize("length", [20, 700])
def test_memory_is_what_the_arithmetic_says(model: GptOss, length: int) -> None:
    cache = model.make_cache()
    chunk, ids = 200, mx.arange(length) % TEXT
    for start in range(0, length, chunk):
        model.hidden(ids[None, start : start + chunk], cache)
        mx.eval(cache.arrays)

    assert cache.nbytes == kv_bytes(model.config, length, float_bytes=4)


def test_decoding_writes_in_place_after_whatever_came_before(model: GptOss) -> None:
    """A cache that was taken over, and of which snapshots were taken, is its own."""
    it = talk(model)
    turn(it, SYSTEM + ASK)
    turn(it, SYSTEM + MORE)
    prompt = [*SYSTEM, *ASK, *OPENING]
    with it.cache.acquire(prompt) as lease:
        part = prompt[lease.cached_tokens :]
        mx.eval(model(mx.array([part]), lease.cache))
        lease.record(part)
        places: list[set[int]] = []
        for token in (1, 2, 3, END, START, 4, 5, 6):
            mx.eval(model(mx.array([[token]]), lease.cache))
            lease.record([token])
            places.append({np.asarray(x).ctypes.data for x in lease.cache.arrays})

    assert places == [places[0]] * len(places)


def test_choices_of_one_prompt_store_it_once(model: GptOss) -> None:
    """What `n` answers share is read once, and each goes on for itself."""
    pool = model.make_pool()
    cache = PromptCache(pool, message_ends=MESSAGE_ENDS, limit=ROOMY)
    prompt = [n * n % 17 for n in range(600)]
    with cache.acquire(prompt, shared=True) as lease:
        mx.eval(model(mx.array([prompt[:-1]]), lease.cache))
        lease.record(prompt[:-1])
        alone = pool.nbytes
        others = [cache.acquire(prompt) for _ in range(3)]
        assert [one.cached_tokens for one in others] == [len(prompt) - 1] * 3
        slots = 4 * pool_bytes(model.config, [1], float_bytes=4)
        assert pool.nbytes <= alone + slots  # each has one for what is its own
        caches = [lease.cache, *(one.cache for one in others)]
        tokens = [prompt[-1]] * 4
        hidden = model.hidden(mx.array([tokens]), caches)
        found = np.array(model.logits(hidden)[0])
        for one in (lease, *others):
            one.record(prompt[-1:])
        for n, one in enumerate(others):
            for token in (n + 1, END):
                mx.eval(model(mx.array([[token]]), one.cache))
                one.record([token])
            one.release()

    expected = np.array(model(mx.array([prompt]))[0, -1])
    np.testing.assert_allclose(found, np.tile(expected, (4, 1)), atol=5e-4)
    for n in range(3):  # what they said is found again
        with cache.acquire([*prompt, n + 1, END, START]) as again:
            assert again.cached_tokens == len(prompt) + 2
