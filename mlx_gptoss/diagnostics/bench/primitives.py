"""Count the MLX primitives that are evaluated; knows nothing of models.

    with EvaluationCounter() as counter:
        step()
        found = counter.take()         # {"Matmul": 25, ...} since the last `take`

A graph is exported (`mx.export_to_dot`) just before it is evaluated, so that all work
of a step counts, wherever the step evaluates it. A compiled function counts as one. On
a CPU fused operations (rms_norm, rope, attention) appear as the plain ones they fall
back to, so counts are comparable between engines on one device, not between a CPU and
a GPU.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median_low
from typing import Any, Self

import mlx.core as mx

OPERATION = re.compile(r'\[label ="([^"]+)", shape=rectangle\]')
# Primitives that give another shape to the same memory. Each may copy (a reshape of
# transposed values), and is counted as a view nevertheless.
VIEWS = frozenset(
    {
        "AsStrided",
        "Broadcast",
        "BroadcastAxes",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
        "View",
    }
)

Counts = Mapping[str, int]


def count_primitives(*outputs: mx.array) -> Counts:
    """Count the primitives that evaluating `outputs` would run, by name."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *outputs)
    return dict(Counter(OPERATION.findall(graph.getvalue())).most_common())


def count_operations(primitives: Counts) -> int:
    """Return how many of the primitives are no views."""
    return sum(count for name, count in primitives.items() if name not in VIEWS)


def typical_step(steps: Sequence[Counts]) -> Counts:
    """Return the step with the median number of operations.

    Steps in which a cache grows have some more than the others.
    """
    usual = median_low(count_operations(step) for step in steps)
    return next(step for step in steps if count_operations(step) == usual)


class EvaluationCounter:
    """Counts the primitives of all calls of `mx.eval` and `mx.async_eval`.

    A context manager that replaces both functions of the module for all threads, for
    use in a process of its own. What is evaluated otherwise (`item`, `tolist`) is not
    seen. Not thread-safe: one thread evaluates.
    """

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()
        self._originals = mx.eval, mx.async_eval

    def take(self) -> Counts:
        """Return the counts since the last call, most frequent first."""
        found, self._found = self._found, Counter()
        return dict(found.most_common())

    def __enter__(self) -> Self:
        mx.eval, mx.async_eval = map(self._counted, self._originals)
        return self

    def __exit__(self, *_: object) -> None:
        mx.eval, mx.async_eval = self._originals

    def _counted(self, evaluate: Callable[..., None]) -> Callable[..., None]:
        def counted(*trees: Any) -> None:
            if outputs := list(_arrays(trees)):
                self._found.update(count_primitives(*outputs))
            evaluate(*trees)

        return counted


def _arrays(tree: Any) -> Iterator[mx.array]:
    if isinstance(tree, mx.array):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _arrays(value)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for value in tree:
            yield from _arrays(value)
