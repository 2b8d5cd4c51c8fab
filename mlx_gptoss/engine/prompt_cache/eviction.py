"""Eviction: free memory of the prefix trees, least recently used first.

Nodes whose keys and values are in a live cache are never evicted; only their older
snapshots are, last. The disk tier is bounded by `folder.py`.
"""

from collections.abc import Iterable, Iterator

from mlx_gptoss.engine.prompt_cache.live_cache import LiveCache
from mlx_gptoss.engine.prompt_cache.tree import PrefixNode, remove_node

PROTECTED_SNAPSHOTS = 4  # the newest of each live cache are never evicted


def evict(
    nodes: Iterable[PrefixNode], live_caches: Iterable[LiveCache], excess: int
) -> int:
    """Free at least `excess` bytes if possible; return the number of evicted tokens."""
    evicted = 0
    stored = [node for node in nodes if node.nbytes and not node.live_caches]
    # A request that used a node used all nodes before it: of equals, later nodes first.
    for node in sorted(stored, key=lambda node: (node.last_used, -node.start)):
        if excess <= 0:
            return evicted
        excess -= node.nbytes
        evicted += len(node.tokens)
        node.rows = node.snapshot = None
        if node.is_empty:
            remove_node(node)
    for node in _spare_snapshots(live_caches):
        if excess <= 0:
            return evicted
        excess -= node.snapshot.nbytes
        node.snapshot = None
    return evicted


def evict_unused(nodes: Iterable[PrefixNode], since: int) -> int:
    """Drop what no request from the one numbered `since` on has used.

    Returns the number of evicted tokens. Caches in use keep what they hold.
    """
    old = [node for node in nodes if node.nbytes and node.last_used < since]
    evicted = 0
    for node in sorted(old, key=lambda node: -node.start):
        if not node.live_caches:
            evicted += len(node.tokens)
            node.rows = node.snapshot = None
            if node.is_empty:
                remove_node(node)
    return evicted


def evict_guesses(nodes: Iterable[PrefixNode], max_bytes: int) -> None:
    """Drop snapshots that were guesses until those left have at most `max_bytes`."""
    guesses = [n for n in nodes if n.guessed and n.snapshot is not None]
    excess = sum(node.snapshot.nbytes for node in guesses) - max_bytes
    # Of equals those far from the end first: fewer prompts part there.
    for node in sorted(guesses, key=lambda node: (node.last_used, node.start)):
        if excess <= 0:
            return
        excess -= node.snapshot.nbytes
        node.snapshot = None


def _spare_snapshots(live_caches: Iterable[LiveCache]) -> Iterator[PrefixNode]:
    """Yield the nodes of live caches whose snapshots are not protected."""
    for live in live_caches:
        nodes = [node for node in live.path if node.snapshot is not None]
        yield from nodes[:-PROTECTED_SNAPSHOTS]
