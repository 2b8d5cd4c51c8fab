"""A prefix tree over token ids; knows nothing of MLX or of what the nodes hold.

A node is a stretch of tokens after its parent's. Nodes end where snapshots were taken,
so a conversation is a path of about one node per message, and branches share the nodes
before they diverge. No two children of a node start with the same token.

The keys and values of a node are in exactly one kind of place: in live caches
(`live_caches`), else in memory (`rows`), else on disk (`file`). A tree knows how many
bytes its nodes have in memory, because each change of them is added up.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


class HeldBytes:
    """The sum of the bytes of several nodes."""

    def __init__(self) -> None:
        self.total = 0


class PrefixNode:
    """A stretch of tokens, their keys and values, and the snapshot at its end.

    `nbytes` are those in memory outside live caches.
    """

    def __init__(
        self, tokens: np.ndarray, start: int, parent: "PrefixNode | None"
    ) -> None:
        self.tokens = tokens
        self.start = start  # position of its first token
        self.parent = parent
        self.children: dict[int, PrefixNode] = {}
        self.live_caches: list[Any] = []  # LiveCache objects that hold it
        self.nbytes = 0
        self.held = HeldBytes() if parent is None else parent.held
        self._rows: Any = None
        self._snapshot: Any = None
        self.guessed = False  # the snapshot was taken where no prompt had parted
        self.file: Any = None
        self.last_used = 0  # number of the last request that used it

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def is_empty(self) -> bool:
        """Whether its keys and values are stored nowhere."""
        return not self.live_caches and self.rows is None and self.file is None

    @property
    def restorable(self) -> bool:
        """Whether a cache can be restored to its end."""
        saved = self.file is not None and self.file.has_snapshot
        return self.snapshot is not None or saved

    @property
    def rows(self) -> Any:
        """Its keys and values in memory; None if they are elsewhere."""
        return self._rows

    @rows.setter
    def rows(self, rows: Any) -> None:
        self._rows = rows
        self._count()

    @property
    def snapshot(self) -> Any:
        """The snapshot at its end, if it is in memory."""
        return self._snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Any) -> None:
        self._snapshot = snapshot
        self._count()

    def _count(self) -> None:
        """Note its bytes, here and in the sum."""
        before, parts = self.nbytes, (self._rows, self._snapshot)
        self.nbytes = sum(part.nbytes for part in parts if part is not None)
        self.held.total += self.nbytes - before

    def count_in(self, held: HeldBytes) -> None:
        """Count its bytes in another sum from now on."""
        self.held.total -= self.nbytes
        self.held = held
        held.total += self.nbytes

    def path(self) -> list["PrefixNode"]:
        """Return the nodes from the first to this one."""
        nodes: list[PrefixNode] = []
        node: PrefixNode = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def subtree(self) -> Iterator["PrefixNode"]:
        """Yield this node and all its descendants."""
        waiting: list[PrefixNode] = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children.values())


class PrefixTree:
    """All known prefixes."""

    def __init__(self) -> None:
        self.root = PrefixNode(token_array(()), 0, None)

    def __iter__(self) -> Iterator[PrefixNode]:
        nodes = self.root.subtree()
        next(nodes)
        return nodes

    @property
    def nbytes(self) -> int:
        """Bytes of all nodes in memory outside live caches."""
        return self.root.held.total

    def match(self, ids: np.ndarray) -> list[PrefixNode]:
        """Return the path of whole nodes that `ids` start with."""
        node, path, at = self.root, [], 0
        while at < len(ids):
            child = node.children.get(int(ids[at]))
            if child is None or common_prefix_length(child.tokens, ids[at:]) < len(
                child.tokens
            ):
                break
            path.append(child)
            node, at = child, child.end
        return path

    def match_length(self, ids: np.ndarray) -> int:
        """Count the known tokens at the start of `ids`, also inside a node."""
        path = self.match(ids)
        node = path[-1] if path else self.root
        rest = ids[node.end :]
        child = node.children.get(int(rest[0])) if len(rest) else None
        return node.end + (common_prefix_length(child.tokens, rest) if child else 0)

    def extend(self, node: PrefixNode, tokens: np.ndarray) -> list[PrefixNode]:
        """Return the nodes of `tokens` after `node`; split and add nodes as needed."""
        found: list[PrefixNode] = []
        while len(tokens):
            child = node.children.get(int(tokens[0]))
            if child is None:
                child = PrefixNode(tokens, node.end, node)
                node.children[int(tokens[0])] = child
            length = common_prefix_length(child.tokens, tokens)
            node = child if length == len(child.tokens) else self.split(child, length)
            found.append(node)
            tokens = tokens[length:]
        return found

    def split(self, node: PrefixNode, at: int) -> PrefixNode:
        """Split off the first `at` tokens as a node of their own; return it."""
        parent = node.parent
        assert parent is not None and 0 < at < len(node.tokens), f"{at=}"
        upper = PrefixNode(node.tokens[:at], node.start, parent)
        if node.rows is not None:
            upper.rows = node.rows.slice(0, at)
            node.rows = node.rows.slice(at, len(node.tokens))
        if node.file is not None:
            upper.file, node.file = node.file.split(at)
        upper.last_used = node.last_used
        upper.children = {int(node.tokens[at]): node}
        parent.children[int(node.tokens[0])] = upper
        node.tokens, node.start, node.parent = node.tokens[at:], upper.end, upper
        for live in node.live_caches:
            live.path.insert(live.path.index(node), upper)
            upper.live_caches.append(live)
        return upper


def remove_node(node: PrefixNode) -> None:
    """Remove a node with its descendants from its tree."""
    if node.parent is not None:
        del node.parent.children[int(node.tokens[0])]
        node.parent = None
        held = HeldBytes()
        for gone in node.subtree():
            gone.count_in(held)


def token_array(ids: Iterable[int]) -> np.ndarray:
    """Return token ids as an int32 array (L,)."""
    return np.fromiter(ids, np.int32)


def common_prefix_length(one: np.ndarray, other: np.ndarray) -> int:
    """Count the leading tokens that are equal."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def count_common_nodes(one: Sequence[PrefixNode], other: Sequence[PrefixNode]) -> int:
    """Count the leading nodes that two paths share."""
    pairs = zip(one, other, strict=False)
    return next(
        (n for n, (a, b) in enumerate(pairs) if a is not b), min(len(one), len(other))
    )
