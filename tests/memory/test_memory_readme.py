"""The table of mlx_gptoss/memory/README.md is what `mlx-gptoss plan` computes."""

import json
import os
import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from mlx_gptoss.cli import cli

PAGE = Path(__file__).resolve().parents[2] / "mlx_gptoss" / "memory" / "README.md"
UPDATE = "MLX_GPTOSS_UPDATE_GOLDEN"
DEVICES = ("M2 16GB", "M3 24GB", "M4 Pro 48GB", "M4 Max 64GB", "M3 Ultra 96GB")
SIZES = ("20b", "120b")
TABLE = re.compile(r"<!-- plans -->\n.*?<!-- end -->\n", re.DOTALL)


def plan(size: str, device: str) -> dict[str, Any]:
    words = ["plan", f"openai/gpt-oss-{size}", "--device", device, "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def cells(found: dict[str, Any]) -> list[str]:
    """Return where the experts are, and the range of tokens a second."""
    chosen, speed = found["plan"], found["prediction"]["tokens_per_second"]
    where = chosen["mode"]
    if where == "streamed":
        where += f", {min(chosen['slots'].values())} of {chosen['experts']} in memory"
    elif where == "hybrid":
        layers = chosen["resident_layers"] + len(chosen["slots"])
        where += f", {chosen['resident_layers']} of {layers} layers resident"
    return [where, f"{speed['low']:.0f} to {speed['high']:.0f}"]


def table() -> str:
    lines = [
        "<!-- plans -->",
        "| Mac | 20b: experts | tokens/s | 120b: experts | tokens/s |",
        "|---|---|---:|---|---:|",
    ]
    for device in DEVICES:
        row = [device, *(cell for size in SIZES for cell in cells(plan(size, device)))]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "<!-- end -->", ""])


def test_the_table_of_plans_is_what_plan_computes() -> None:
    """To accept a change: MLX_GPTOSS_UPDATE_GOLDEN=1 pytest, on this file."""
    text = PAGE.read_text()
    if os.environ.get(UPDATE):
        text = TABLE.sub(lambda _: table(), text)
        PAGE.write_text(text)

    assert [found[0] for found in TABLE.finditer(text)] == [table()]
