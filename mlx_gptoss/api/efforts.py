"""Names of reasoning efforts on every API, and the gpt-oss effort of each."""

from collections.abc import Mapping
from typing import Literal

from mlx_gptoss.harmony.messages import Effort

EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORT_BY_NAME: Mapping[str, Effort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
NO_REASONING: EffortName = "none"  # answer at once
