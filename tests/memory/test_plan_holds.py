"""On this machine, while nothing else runs: what is measured lies within the plan.

    pytest -m soak tests/memory/test_plan_holds.py -s

probes the machine, plans each model, and measures it with `bench decode`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.diagnostics.bench.random_checkpoint import write_random

pytestmark = pytest.mark.soak

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
    words = [word for depth in depths for word in ("--depth", depth)]
    bench = json.loads(
        run("bench", "decode", "-m", model, *words, "--tokens", tokens, "--json")
    )
    outside = []
    for point in bench["columns"][0]["points"]:
        depth = point["depth"]
        plan = json.loads(run("plan", model, "--prompt", depth, "--json"))
        expected: dict[str, Any] = plan["prediction"]
        assert expected["basis"] == "probe"
        for key, field in (
            ("decode", "tokens_per_second"),
            ("first_token_s", "first_token_seconds"),
        ):
            bounds, measured = expected[field], point[key]
            line = (
                f"{name} behind {depth}: {field} {measured:.4g} in "
                f"{bounds['low']:.4g} to {bounds['high']:.4g}"
            )
            print(line)
            assert bounds["high"] <= 1.6 * bounds["low"]
            if not bounds["low"] <= measured <= bounds["high"]:
                outside.append(line)
    assert outside == []
