"""A prefix tree over token ids; knows nothing of MLX or of what the nodes hold.

A node is a stretch of tokens that follows its parent's. Where a snapshot was taken a
node ends, so that a conversation is a path of nodes, about one a message, and branches
share the nodes before they part. No two children of a node begin with the same token.

What a node holds lies in exactly one kind of place: in the sequences that are live
(`live`), else in memory (`rows`), else on disk (`file`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np


class Cuttable(Protocol):
    """What is kept of a stretch of tokens, of which a part can be taken."""

    def slice(self, start: int, end: int) -> Any: ...


class PrefixNode:
    """A stretch of tokens, what is kept of it, and the state at its end."""

    def __init__(
        self, tokens: np.ndarray, start: int, parent: "PrefixNode | None"
    ) -> None:
        self.tokens = tokens
        self.start = start  # position of its first token
        self.parent = parent
        self.children: dict[int, PrefixNode] = {}
        self.live_caches: list[Any] = []  # the sequences whose caches hold it
        self.rows: Any = None
        self.snapshot: Any = None
        self.file: Any = None
        self.last_used = 0  # when a request last passed, as a count of requests

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept of it any more."""
        return not self.live_caches and self.rows is None and self.file is None

    @property
    def restorable(self) -> bool:
        """Whether a cache can be put to its end."""
        saved = self.file is not None and self.file.has_snapshot
        return self.snapshot is not None or saved

    @property
    def nbytes(self) -> int:
        """Bytes it holds by itself, in memory."""
        return sum(x.nbytes for x in (self.rows, self.snapshot) if x is not None)

    def path(self) -> list["PrefixNode"]:
        """The nodes from the first to this one."""
        nodes: list[PrefixNode] = []
        node: PrefixNode = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def subtree(self) -> Iterator["PrefixNode"]:
        """This node and all that follow it."""
        waiting: list[PrefixNode] = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children.values())


class PrefixTree:
    """All that is known, from the first token on."""

    def __init__(self) -> None:
        self.root = PrefixNode(token_array(()), 0, None)

    def __iter__(self) -> Iterator[PrefixNode]:
        nodes = self.root.subtree()
        next(nodes)
        return nodes

    def match(self, ids: np.ndarray) -> list[PrefixNode]:
        """Return the nodes that `ids` begin with, whole nodes only."""
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
        """Count the tokens of `ids` that are here, also those within a node."""
        path = self.match(ids)
        node = path[-1] if path else self.root
        rest = ids[node.end :]
        child = node.children.get(int(rest[0])) if len(rest) else None
        return node.end + (common_prefix_length(child.tokens, rest) if child else 0)

    def extend(self, node: PrefixNode, tokens: np.ndarray) -> list[PrefixNode]:
        """Return the nodes of `tokens` after `node`: those there are, split, new."""
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
        """Cut the first `at` tokens off as a node of their own; return that."""
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
        for sequence in node.live_caches:
            sequence.path.insert(sequence.path.index(node), upper)
            upper.live_caches.append(sequence)
        return upper

    def remove(self, node: PrefixNode) -> None:
        """Take a node out, with all that follow it."""
        if node.parent is not None:
            del node.parent.children[int(node.tokens[0])]
            node.parent = None


def token_array(ids: Iterable[int]) -> np.ndarray:
    return np.fromiter(ids, np.int32)


def common_prefix_length(one: np.ndarray, other: np.ndarray) -> int:
    """Count the tokens in which both begin."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def count_common_nodes(one: Sequence[PrefixNode], other: Sequence[PrefixNode]) -> int:
    """Count the nodes in which two paths begin."""
    pairs = zip(one, other, strict=False)
    return next(
        (n for n, (a, b) in enumerate(pairs) if a is not b), min(len(one), len(other))
    )
