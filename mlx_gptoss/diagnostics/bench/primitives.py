"""Count the MLX primitives of a graph; knows nothing of models.

The graph is exported (`mx.export_to_dot`), not evaluated. Views (reshape, transpose,
broadcast) count, and a compiled function counts as one. On a CPU fused operations
(rms_norm, rope, attention) appear as the plain ones they fall back to, so counts are
comparable between engines on one device, not between a CPU and a GPU.
"""

import io
import re
from collections import Counter
from collections.abc import Mapping

import mlx.core as mx

OPERATION = re.compile(r'\[label ="([^"]+)", shape=rectangle\]')


def count_primitives(*outputs: mx.array) -> Mapping[str, int]:
    """Count the primitives that evaluating `outputs` would run, by name."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *outputs)
    return dict(Counter(OPERATION.findall(graph.getvalue())).most_common())
