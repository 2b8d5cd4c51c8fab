"""How many MLX primitives one decoded token takes; knows nothing of models.

The graph that one more token would evaluate is drawn, not run (`mx.export_to_dot`),
and its operations are counted. Views (reshape, transpose, broadcast) count as well,
and a compiled function counts once. On a CPU the fused operations (rms_norm, rope,
attention) are drawn as the plain ones they fall back to, so the numbers of a CPU and
of a GPU are not comparable; those of two engines on one device are.
"""

import io
import re
from collections import Counter
from collections.abc import Mapping

import mlx.core as mx

OPERATION = re.compile(r'\[label ="([^"]+)", shape=rectangle\]')


def count_primitives(*outputs: mx.array) -> Mapping[str, int]:
    """Count what evaluating `outputs` would run, by the name of the primitive."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *outputs)
    return dict(Counter(OPERATION.findall(graph.getvalue())).most_common())
