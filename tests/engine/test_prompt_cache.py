"""The prompt cache: what is found again, what is kept once, what goes first.

The caches here hold the very ids they were fed, and a snapshot all ids before it, so
that a cache put together wrongly shows at once. A message ends with 9 or 8.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_gptoss.engine.prompt_cache import PromptCache
from mlx_gptoss.engine.prompt_cache.eviction import (
    PROTECTED_SNAPSHOTS,
    evict_guesses,
)
from mlx_gptoss.engine.prompt_cache.live_caches import MAX_IDLE_CACHES
from mlx_gptoss.engine.prompt_cache.snapshot_points import (
    MIN_SAVED_TOKENS,
    MIN_SNAPSHOT_TOKENS,
    SNAPSHOT_INTERVAL,
)
from mlx_gptoss.engine.prompt_cache.tree import PrefixTree, token_array
from tests.support.fakes import FakePool, FakeSnapshot

ENDS = (9, 8)
ROOMY = 10**9


def prompt_cache(limit: int = ROOMY) -> PromptCache:
    return PromptCache(FakePool(), message_ends=ENDS, limit=limit)


def read(
    cache: PromptCache,
    ids: Sequence[int],
    answer: Sequence[int] = (),
    *,
    chunk: int = 10**6,
    ahead: bool = False,
) -> int:
    """Read a prompt in chunks and an answer one by one; return how much was known."""
    with cache.acquire(ids, prefetch=ahead) as lease:
        assert lease.cache.ids == list(ids[: lease.cached_tokens])
        for start in range(lease.cached_tokens, len(ids), chunk):
            feed(lease, ids[start : start + chunk])
        for token in answer:
            feed(lease, [token])
        return lease.cached_tokens


def feed(lease, ids: Sequence[int]) -> None:  # type: ignore[no-untyped-def]
    lease.cache.ids += ids
    lease.record(list(ids))


SYSTEM = [1, 2, 3, 9]
ASK = [4, 5, 9]
OPEN = [6]  # the start of an answer
THINK = [7, 7, 7, 9]
SAY = [6, 5, 4, 8]
SAID = [6, 5, 4, 9]
MORE = [4, 4, 9]

FIRST = [*SYSTEM, *ASK, *OPEN]
SECOND = [*SYSTEM, *ASK, *SAID, *MORE, *OPEN]  # the thinking has gone


def test_the_next_turn_reads_the_answer_without_its_analysis_and_the_question() -> None:
    cache = prompt_cache()

    known = [read(cache, FIRST, THINK + SAY), read(cache, SECOND)]

    assert known == [0, len(SYSTEM + ASK)]


def test_after_idle_time_the_next_turn_reads_the_question_alone() -> None:
    cache = prompt_cache()
    read(cache, FIRST, THINK + SAY)

    read(cache, SYSTEM + ASK + SAID, ahead=True)

    assert read(cache, SECOND) == len(SYSTEM + ASK + SAID)
    assert cache.statistics.prepared_tokens == len(SAID)


def test_a_tool_loop_keeps_what_was_thought_before_the_call() -> None:
    cache = prompt_cache()
    read(cache, FIRST, THINK + SAY)

    result = [*FIRST, *THINK, 2, 2, 9, 1, 1, 9, *OPEN]  # the call is written otherwise

    assert read(cache, result) == len(FIRST + THINK)


@pytest.mark.parametrize(
    ("prompt", "known"),
    [
        (FIRST, len(SYSTEM + ASK)),  # again, or exactly repeated
        ([*SYSTEM, 5, 5, 9, *OPEN], len(SYSTEM)),  # an edited question
        ([*SYSTEM, *MORE, *OPEN], len(SYSTEM)),  # another session
        ([3, *SYSTEM], 0),
    ],
    ids=["again", "edited", "shared system block", "unknown"],
)
def test_any_known_beginning_is_used(prompt: list[int], known: int) -> None:
    cache = prompt_cache()
    read(cache, FIRST, THINK + SAY)
    read(cache, SECOND, THINK + SAY)

    assert read(cache, prompt, SAY) == known
    assert read(cache, SECOND) == len(SECOND) - 1  # and nothing was lost for it


def test_a_long_message_has_points_within() -> None:
    cache = prompt_cache()
    long = [1] * (3 * SNAPSHOT_INTERVAL)
    read(cache, long, chunk=500)

    changed = [*long[: SNAPSHOT_INTERVAL + 7], 2, 3]

    assert read(cache, changed) == SNAPSHOT_INTERVAL - 1  # counted from the last token


@given(st.integers(100, 4000), st.data())
@settings(max_examples=60, deadline=None)
def test_a_prompt_that_parts_near_its_end_reads_little_again(
    length: int, data: st.DataObject
) -> None:
    """At most twice what it has to read, and an interval far from the end."""
    tail = data.draw(st.integers(1, length - 1))
    behind = data.draw(st.sampled_from([[], [4, 9], [9, 4, 5, 9, 6]]))
    cache = prompt_cache()
    long = [1] * (length - tail)
    requests = [[*long, n, *([1] * (tail - 1)), *behind] for n in (2, 3, 4)]

    known = [read(cache, ids, chunk=512) for ids in requests]

    own = tail + len(behind)
    again = [len(long) - n for n in known[1:]]
    most = max(2 * MIN_SAVED_TOKENS, min(own, SNAPSHOT_INTERVAL) * 9 / 8)
    assert again[0] <= most + 1  # an eighth is rounded up
    assert again[1] < MIN_SAVED_TOKENS
    assert cache.statistics.snapshots < 40


def test_a_clock_in_the_system_text_costs_little_from_the_second_request_on() -> None:
    cache = prompt_cache()
    rules = [1] * 3000

    known = [
        read(cache, [*rules, 2, n, n, 9, *([5] * 20), 9, *OPEN], chunk=512)
        for n in (3, 4, 5)
    ]

    assert known[1] >= len(rules) - 100
    assert known[2] > len(rules) - MIN_SAVED_TOKENS


def test_snapshots_that_were_guesses_have_a_budget_of_their_own() -> None:
    guesses = [FakeSnapshot((1,), nbytes=n) for n in (600, 700, 800)]
    tree = PrefixTree()
    at = tree.root
    for number, snapshot in enumerate(guesses):
        [at] = tree.extend(at, token_array([1] * 100))
        at.snapshot, at.guessed, at.last_used = snapshot, True, number
    [proven] = tree.extend(at, token_array([2]))
    proven.snapshot = FakeSnapshot((1,), nbytes=900)

    evict_guesses(tree, 1500)

    assert [node.snapshot is not None for node in tree] == [False, True, True, True]


def test_a_long_answer_has_points_within() -> None:
    cache = prompt_cache()
    answer = [2] * (SNAPSHOT_INTERVAL + 100)
    read(cache, FIRST, answer)

    known = read(cache, [*FIRST, *answer[:-50], 3])

    # since the end of the last message
    assert known == len(SYSTEM + ASK) + SNAPSHOT_INTERVAL


def test_a_prompt_without_messages_is_repeated_and_gone_on_with() -> None:
    cache = prompt_cache()
    prompt = [1] * (MIN_SNAPSHOT_TOKENS + 1)
    read(cache, prompt, [2, 3])

    known = [read(cache, ids) for ids in (prompt, [*prompt, 4], [*prompt, 5])]

    assert known == [len(prompt) - 1, len(prompt), len(prompt) - 1]


def test_reading_that_was_broken_off_goes_on_where_it_stood() -> None:
    cache = prompt_cache()
    with cache.acquire(FIRST) as lease:
        feed(lease, FIRST[:6])

    assert read(cache, FIRST) == 6


def test_what_was_read_for_long_survives_another_session() -> None:
    cache = prompt_cache()
    prompt = [1] * (3 * MIN_SNAPSHOT_TOKENS)
    with cache.acquire(prompt) as lease:
        feed(lease, prompt[: 2 * MIN_SNAPSHOT_TOKENS])

    for n in range(MAX_IDLE_CACHES):  # their caches and the first one's
        read(cache, [2 + n, 2])

    assert read(cache, prompt) == 2 * MIN_SNAPSHOT_TOKENS - 1


def test_a_failure_leaves_nothing_of_its_cache() -> None:
    cache = prompt_cache()
    read(cache, [*SYSTEM, *MORE])
    with pytest.raises(RuntimeError), cache.acquire(FIRST) as lease:
        feed(lease, FIRST[lease.cached_tokens :])
        raise RuntimeError("device lost")

    assert read(cache, FIRST) == 0
    assert cache.statistics.kept_tokens == len(FIRST)


def test_memory_of_shared_parts_counts_once() -> None:
    cache = prompt_cache()
    tails = [[n, n, 9] for n in range(4)]
    for tail in tails:
        read(cache, SYSTEM + tail)

    statistics = cache.statistics

    assert statistics.kept_tokens == len(SYSTEM) + 3 * len(tails)
    assert statistics.nbytes == statistics.kept_tokens + 3 * statistics.snapshots
    assert (statistics.prompt_tokens, statistics.cached_tokens) == (28, 12)


def test_the_least_recently_used_goes_first_and_the_live_one_stays() -> None:
    branch = 20
    cache = prompt_cache(limit=3 * branch)
    for n in range(5):
        read(cache, [n] * (branch - 1) + [9])
        assert cache.nbytes <= cache.limit

    known = [n for n in range(5) if cache.tree.match(token_array([n] * 19 + [9]))]

    assert known == [3, 4]


def test_a_live_conversation_larger_than_the_limit_goes_on() -> None:
    cache = prompt_cache(limit=10)
    ids = [n for _ in range(9) for n in MORE]

    read(cache, ids)

    assert cache.statistics.snapshots == PROTECTED_SNAPSHOTS
    assert read(cache, [*ids, *MORE]) == len(ids)


def test_several_leases_at_once_share_what_is_known() -> None:
    cache = prompt_cache()
    read(cache, SYSTEM + ASK)

    with cache.acquire(SYSTEM + MORE) as one, cache.acquire([*SYSTEM, 5, 9]) as two:
        cached = [one.cached_tokens, two.cached_tokens]
        feed(two, [5, 9])
        feed(one, MORE)
        assert (one.cache.ids, two.cache.ids) == (SYSTEM + MORE, [*SYSTEM, 5, 9])

    assert cached == [len(SYSTEM)] * 2
    tails = (ASK, MORE, [5, 9])
    assert [read(cache, [*SYSTEM, *tail, 1]) for tail in tails] == [7, 7, 6]


def test_two_that_read_the_same_at_once_keep_it_once() -> None:
    cache = prompt_cache()
    with cache.acquire(FIRST) as one, cache.acquire(FIRST) as two:
        for lease in (one, two):
            feed(lease, FIRST)

    assert cache.statistics.kept_tokens == len(FIRST)


def test_clearing_forgets_all_but_what_is_in_use() -> None:
    cache = prompt_cache()
    read(cache, [5, 5, 9])
    with cache.acquire(FIRST) as lease:
        feed(lease, FIRST)
        cache.clear()
        assert cache.statistics.kept_tokens == len(SYSTEM + ASK)
    cache.clear()

    assert (cache.statistics.kept_tokens, cache.nbytes) == (0, 0)


def test_what_is_held_is_known_without_asking_the_owner() -> None:
    cache = prompt_cache()
    held = []
    read(cache, [5, 5, 9])
    held.append((cache.resident_bytes, cache.nbytes))
    with cache.acquire(FIRST) as lease:
        held.append((cache.resident_bytes, cache.nbytes))
        feed(lease, FIRST)
    held.append((cache.resident_bytes, cache.nbytes))
    cache.acquire(SYSTEM).discard()
    held.append((cache.resident_bytes, cache.nbytes))
    cache.clear()

    assert all(told == true > 0 for told, true in held)
    assert cache.resident_bytes == cache.nbytes == 0


def test_a_tree_finds_splits_and_adds() -> None:
    tree = PrefixTree()
    tree.extend(tree.root, token_array([1, 2, 3, 4]))

    nodes = tree.extend(tree.root, token_array([1, 2, 5]))

    spans = [(node.start, node.tokens.tolist()) for node in nodes]
    assert spans == [(0, [1, 2]), (2, [5])]
    assert tree.match_length(token_array([1, 2, 3, 9])) == 3
    assert [n.end for n in tree.match(token_array([1, 2, 3, 4, 5]))] == [2, 4]
    assert [n.end for n in tree.match(token_array([1, 2, 3]))] == [2]


TURNS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), min_size=1, max_size=12),  # the prompt
        st.lists(st.integers(0, 9), max_size=6),  # the answer
        st.integers(0, 12),  # how many of its tokens were known from the last
        st.integers(1, 5),  # the size of a chunk
        st.booleans(),  # reading ahead
    ),
    min_size=1,
    max_size=12,
)


SHORT = ([0], [], 0, 1, False)


@settings(max_examples=150, deadline=None)
@given(TURNS, st.sampled_from([0, 15, 40, ROOMY]))
@example([SHORT, SHORT, ([0], [0], 0, 1, False), ([0, 0], [], 0, 1, False)], ROOMY)
def test_whatever_was_read_the_longest_known_point_is_found(
    turns: list[tuple[list[int], list[int], int, int, bool]], limit: int
) -> None:
    """`read` checks the content; here, how far back each prompt had to go."""
    cache = prompt_cache(limit)
    points: set[tuple[int, ...]] = {()}
    last: list[int] = []
    stood: list[list[int]] = [last]  # where caches, idle now, were at their ends
    for tail, answer, shared, chunk, ahead in turns:
        ids = [*last[:shared], *tail]
        usable = ids if ahead else ids[:-1]
        best = max(n for n in range(len(usable) + 1) if tuple(usable[:n]) in points)

        known = read(cache, ids, answer, chunk=chunk, ahead=ahead)

        if limit == ROOMY:  # where one stood at its end may be even better
            assert known == best or (known > best and usable[:known] in stood)
        last = ids + answer
        stood.append(last)
        whole = np.array(last)
        ends = np.flatnonzero(np.isin(whole, ENDS)) + 1
        points |= {tuple(last[:end]) for end in ends}
        statistics = cache.statistics
        held = sum(live.cache.nbytes for live in cache._caches)
        assert statistics.nbytes <= max(limit, held + 3 * PROTECTED_SNAPSHOTS)


def test_what_no_recent_request_used_is_forgotten_and_what_is_shared_stays() -> None:
    cache = PromptCache(FakePool(), message_ends=ENDS, requests=4)
    policy, own = [*range(10, 20), 9], 20
    sizes = []
    for number in range(60):
        first = 100 + own * number
        read(cache, [*policy, *range(first, first + own), *OPEN])
        sizes.append(cache.statistics.kept_tokens)
    assert sizes[-1] <= max(sizes[:20]) < len(policy) + 20 * own
    assert read(cache, [*policy, 5, 6]) == len(policy)
