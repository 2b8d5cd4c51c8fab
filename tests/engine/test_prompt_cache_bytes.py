"""The bytes of the prompt cache are added up as they change, and are always the sum."""

from collections.abc import Sequence
from math import nan

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.engine.prompt_cache import PromptCache
from mlx_gptoss.engine.prompt_cache.tree import (
    PrefixNode,
    PrefixTree,
    remove_node,
    token_array,
)
from tests.support.fakes import FakeIds, FakePool, FakeSnapshot

ENDS = (9, 8)
ADAPTERS = ("", "a")
PROMPTS = st.lists(st.integers(0, 9), min_size=1, max_size=12)
WORK = st.lists(
    st.one_of(
        st.tuples(st.just("read"), PROMPTS, st.sampled_from(ADAPTERS), st.booleans()),
        st.tuples(st.just("again"), PROMPTS, st.integers(0, 12)),
        st.tuples(st.just("fail"), PROMPTS, st.booleans()),
        st.tuples(st.just("shrink"), st.integers(0, 60)),
        st.tuples(st.just("clear")),
    ),
    max_size=20,
)


def read(cache: PromptCache, ids: Sequence[int], adapter: str, *, ahead: bool) -> None:
    with cache.acquire(ids, adapter=adapter, prefetch=ahead) as lease:
        rest = list(ids[lease.cached_tokens :])
        lease.cache.ids += rest
        lease.record(rest)


def fail(cache: PromptCache, ids: Sequence[int], *, non_finite: bool) -> None:
    """Give back a cache whose content is not trusted, maybe since its first node."""
    lease = cache.acquire(ids)
    for node in lease._live.path[:1]:
        node.snapshot = FakeSnapshot((1,), arrays=(mx.array(nan),))
    lease.discard(non_finite=non_finite)


def bytes_of(node: PrefixNode) -> int:
    return sum(x.nbytes for x in (node.rows, node.snapshot) if x is not None)


@settings(max_examples=100, deadline=None)
@given(WORK, st.sampled_from([15, 40, 10**9]))
def test_whatever_is_done_the_bytes_are_the_sum(work: list[tuple], limit: int) -> None:
    cache = PromptCache(FakePool(), message_ends=ENDS, limit=limit)
    last: list[int] = [1, 9, 2, 9]
    for name, *given_ in work:
        match name:
            case "read":
                last, adapter, ahead = given_
                read(cache, last, adapter, ahead=ahead)
            case "again":  # a prompt that parts somewhere from the one before
                tail, shared = given_
                last = [*last[:shared], *tail]
                read(cache, last, ADAPTERS[0], ahead=False)
            case "fail":
                fail(cache, given_[0], non_finite=given_[1])
            case "shrink":
                cache.shrink(given_[0])
            case _:
                cache.clear()
        nodes = list(cache._prompts)
        assert cache._prompts.nbytes == sum(map(bytes_of, nodes))
        assert [node.nbytes for node in nodes] == [bytes_of(node) for node in nodes]
        assert cache.resident_bytes == cache.nbytes


def test_nodes_that_left_the_tree_do_not_count() -> None:
    tree = PrefixTree()
    [first] = tree.extend(tree.root, token_array([1, 2, 3]))
    [second] = tree.extend(first, token_array([4]))
    first.rows, second.rows = FakeIds((1, 2, 3)), FakeIds((4,))
    assert tree.nbytes == 4
    tree.split(first, 1)
    assert tree.nbytes == 4
    remove_node(first)
    assert tree.nbytes == 1
    first.rows = second.rows = None
    assert tree.nbytes == 1
