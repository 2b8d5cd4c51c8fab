"""Load a model within a budget, read a prompt, decode; print what it took as JSON.

Run in a process of its own, whose peak is its own:

    python -m tests.support.budget_run FOLDER BYTES CONTEXT [TOKENS]
"""

import json
import re
import resource
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss import SamplingParams, load

PEAK = re.compile(r"VmHWM:\s*(\d+) kB")


def peak_rss() -> int:
    """Return the most memory this process had; Linux counts its parent's as well."""
    status = Path("/proc/self/status")
    if status.exists():
        found = PEAK.search(status.read_text())
        assert found is not None
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder: str, memory: str, context: str, tokens: str = "24") -> None:
    prompt = np.random.default_rng(0).integers(0, 300, int(context) // 2).tolist()
    params = SamplingParams(max_tokens=int(tokens), temperature=0)
    with load(Path(folder), memory=int(memory), context=int(context)) as runtime:
        steps = list(runtime.generate(prompt, params, stop_tokens={}))
        stats, plan = runtime.stats, runtime.plan
        assert plan is not None
        found = {
            "mode": plan.mode,
            "slots": plan.least_slots,
            "planned": plan.total_bytes,
            "tokens": [step.token for step in steps],
            "hit_rate": stats.total.hit_rate if stats else 1.0,
            "mlx_peak": mx.get_peak_memory(),
        }
    found["active_after_close"] = mx.get_active_memory()
    found["rss_peak"] = peak_rss()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
