"""Words for how long to reason, on every API, and which of gpt-oss's three each is."""

from collections.abc import Mapping

from mlx_gptoss.harmony.messages import Effort

EFFORT_BY_NAME: Mapping[str, Effort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
NO_REASONING = "none"  # the answer comes at once
