"""On this machine, while nothing else runs: what is measured lies within the plan.

    pytest -m soak tests/memory/test_plan_holds.py -s

probes the machine, plans each model, and measures it with `bench decode`: the medians
of several processes, since the same code may take a quarter more in one than in another
(where its memory happens to lie).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from mlx_gptoss.diagnostics.bench.random_checkpoint import write_random

pytestmark = pytest.mark.soak

PROCESSES = 3
KEYS = {"decode": "tokens_per_second", "first_token_s": "first_token_seconds"}

MEGA = 10**6
RANDOM_BYTES = {"5MB": 5 * MEGA, "20MB": 20 * MEGA, "200MB": 200 * MEGA}
CASES = {  # a model, prompt lengths, tokens to decode
    "demo": ((32, 256, 1000), 32),
    "5MB": ((32, 256, 1000), 32),
    "20MB": ((32, 256, 1000), 32),
    "200MB": ((16, 64, 256), 16),
    "200MB-q8": ((16, 64, 256), 16),
    "200MB-q4": ((16, 64, 256), 16),
}


def run(*words: object) -> str:
    """Run a command of the package; return its output. A busy machine is a failure."""
    command = [sys.executable, "-m", "mlx_gptoss", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Probe the machine, without touching the user's own probe; return a folder."""
    folder = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        print(run("probe", "--folder", folder))
        yield folder


def model_at(folder: Path, name: str) -> str:
    if name == "demo":
        return name
    size, _, recipe = name.partition("-")
    plain = folder / size
    if not plain.exists():
        write_random(plain, RANDOM_BYTES[size])
    if recipe:
        run("convert", plain, folder / name, "--recipe", recipe)
    return str(folder / name)


@pytest.mark.parametrize("name", CASES)
def test_what_is_measured_lies_within_the_plan(probed: Path, name: str) -> None:
    depths, tokens = CASES[name]
    model = model_at(probed, name)
    outside = []
    for depth, measured in measure(model, depths, tokens).items():
        plan = json.loads(run("plan", model, "--prompt", depth, "--json"))
        expected: dict[str, Any] = plan["prediction"]
        assert expected["basis"] == "probe"
        for key, field in KEYS.items():
            bounds = expected[field]
            line = (
                f"{name} behind {depth}: {field} {measured[key]:.4g} in "
                f"{bounds['low']:.4g} to {bounds['high']:.4g}"
            )
            print(line)
            assert bounds["high"] <= 1.6 * bounds["low"]
            if not bounds["low"] <= measured[key] <= bounds["high"]:
                outside.append(line)
    assert outside == []


def measure(
    model: str, depths: tuple[int, ...], tokens: int
) -> dict[int, dict[str, float]]:
    """Return the medians of several processes, by depth."""
    words = [word for depth in depths for word in ("--depth", depth)]
    command = ("bench", "decode", "-m", model, *words, "--tokens", tokens, "--json")
    runs = [json.loads(run(*command))["columns"][0] for _ in range(PROCESSES)]
    return {
        point["depth"]: {
            key: median(one["points"][number][key] for one in runs) for key in KEYS
        }
        for number, point in enumerate(runs[0]["points"])
    }
