"""Write the tables of README.md, beside this file, from the JSON in results/.

    python -m mlx_gptoss.diagnostics.bench.tables

A table stands between `<!-- NAME -->` and `<!-- end -->`; `TABLES` maps its name to a
function. Each JSON file holds the command, commit, date and machine of a run, and its
`--json` output as `result`. Both are in the repository, not in the wheel.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mlx_gptoss.files import write
from mlx_gptoss.memory import format_bytes

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
RESULTS = FOLDER / "results"
MARKED = re.compile(r"<!-- (?P<name>[a-z]+) -->\n.*?<!-- end -->", re.DOTALL)

Row = Sequence[str]


def decode_table() -> list[str]:
    """Prefill and decode speed by model and depth, and primitives per token."""
    runs = [read_run("decode-200MB"), read_run("decode-demo")]
    rows: list[Row] = []
    for run in runs:
        result = run["result"]
        own, peer, shipped = result["columns"]
        points = zip(own["points"], peer["points"], result["ratios"], strict=True)
        as_shipped = {point["depth"]: point for point in shipped["points"]}
        for mine, theirs, ratio in points:
            for kind in ("prefill", "decode"):
                left_out = as_shipped.get(mine["depth"])
                rows.append(
                    (
                        f"{result['model']}, {kind} at {mine['depth']} tokens",
                        _rate(mine[kind]),
                        _rate(theirs[kind]),
                        f"{ratio[kind]:.2f}x",
                        _rate(left_out[kind]) if left_out else "-",
                    )
                )
        rows.append(
            (
                f"{result['model']}, MLX primitives per decoded token",
                *(str(one["primitives_per_token"]) for one in (own, peer)),
                "",
                str(shipped["primitives_per_token"]),
            )
        )
    head = ("tokens per second", "mlx_gptoss", "mlx-lm", "ratio", "mlx-lm as shipped")
    return [*markdown(head, rows), provenance(runs[0]), "", provenance(runs[1])]


def serve_table() -> list[str]:
    """Throughput and first tokens of two servers by number of streams."""
    run = read_run("serve")
    own, peer = run["result"]["sides"]
    levels = zip(own["levels"], peer["levels"], run["result"]["ratios"], strict=True)
    rows = [
        (
            str(mine["streams"]),
            *(_level(mine)),
            *(_level(theirs)),
            f"{ratio['throughput']:.2f}x",
            f"{ratio['first_token']:.2f}x",
        )
        for mine, theirs, ratio in levels
    ]
    figures = ("tok/s", "first token", "slowest first token")
    head = (
        "streams",
        *(f"mlx_gptoss {figure}" for figure in figures),
        *(f"mlx-lm {figure}" for figure in figures),
        "throughput",
        "first token",
    )
    return [*markdown(head, rows), provenance(run)]


def turns_table() -> list[str]:
    """Tokens prefilled, and seconds to the first token, for each request."""
    run = read_run("turns")
    result = run["result"]
    rows = [
        (
            turn["name"],
            f"{turn['prompt']:,}",
            f"{turn['new']:,}",
            *(
                f"{turn[side]['read']:,} in {turn[side]['first_token_s']:.2f} s"
                for side in ("back_to_back", "after_idle", "peer")
            ),
        )
        for turn in result["turns"]
    ]
    head = ("turn", "prompt", "new", "back to back", "after idle time", result["peer"])
    restart = result["restart"]
    gain = restart["read_s"] / restart["load_s"]
    return [
        *markdown(head, rows),
        f"After a restart, the first token after {restart['tokens']:,} tokens came "
        f"after {restart['load_s']:.2f} s from disk "
        f"({format_bytes(restart['file_bytes'])}) and after "
        f"{restart['read_s']:.1f} s by prefill: {gain:.0f}x.",
        "",
        provenance(run),
    ]


def constrain_table() -> list[str]:
    """The cost of a guide for free text."""
    run = read_run("constrain")
    result = run["result"]
    head = ("vocabulary", "without a guide", "with a guide", "cost")
    row = (
        f"{result['vocabulary']:,}",
        f"{result['free']:.1f} tok/s",
        f"{result['guided']:.1f} tok/s",
        f"{result['cost']:.1%}",
    )
    return [*markdown(head, [row]), provenance(run)]


def convert_table() -> list[str]:
    """Time, size and peak memory of conversions."""
    run = read_run("convert")
    rows = [
        (
            row["engine"],
            f"{row['seconds']:.1f} s",
            format_bytes(row["nbytes"]),
            format_bytes(row["peak"]),
        )
        for row in run["result"]["rows"]
    ]
    head = ("", "time", "output", "peak memory")
    return [*markdown(head, rows), provenance(run)]


def experts_table() -> list[str]:
    """Loading rates, and every aim beside its bound."""
    run = read_run("experts")
    runs = run["result"]["runs"]
    engines = {"read": "parallel reads", "load": "mlx_gptoss", "stock": "mlx-lm"}
    loading = [
        (
            f"load with {name}",
            *(
                f"{runs['bytes'] / runs[heat][engine] / 1e9:.2f} GB/s"
                for heat in ("warm", "cold")
            ),
        )
        for engine, name in engines.items()
    ]
    aims = [
        (
            aim["name"],
            _quantity(aim["value"], aim["unit"]),
            _bound(aim),
        )
        for aim in run["result"]["aims"]
    ]
    prediction = runs["prediction"]
    predicted = (
        f"{prediction['slots']} of 128 slots, {prediction['hit_rate']:.0%} hits",
        f"{prediction['measured']:.2f} tok/s",
        f"{prediction['predicted']['expected']:.2f} tok/s predicted",
    )
    return [
        *markdown(("", "warm", "cold"), loading)[:-1],
        *markdown(("", "measured", "aim"), [*aims, predicted]),
        provenance(run),
    ]


def stalls_table() -> list[str]:
    """Delays of others beside each heavy request."""
    run = read_run("stalls")
    rows = [
        (
            row["name"],
            f"{row['megabytes']:.1f} MB",
            "" if row["status"] is None else str(row["status"]),
            "" if row["seconds"] is None else f"{row['seconds']:.2f} s",
            *(_delays(row[kind]) for kind in ("health", "first_token", "token_gap")),
        )
        for row in run["result"]["rows"]
    ]
    head = (
        "beside",
        "body",
        "status",
        "took",
        "`/health`",
        "first token",
        "next token",
    )
    return [*markdown(head, rows), provenance(run)]


def tune_table() -> list[str]:
    """Steps of training beside mlx-lm's, with MLX's own BLAS and with OpenBLAS."""
    lines: list[str] = []
    for name in ("tune-demo", "tune-demo-openblas", "tune-smol-openblas"):
        run = read_run(name)
        result = run["result"]
        work = result["work"]
        rows = [
            (
                f"{one['name']}, weights {one['weights']}",
                f"{one['step_s']:.3f} s",
                f"{one['tokens_per_second']:,.0f}",
                format_bytes(one["peak_memory"]),
                "" if (plan := one["planned_memory"]) is None else format_bytes(plan),
            )
            for one in result["columns"]
        ]
        head = ("", "a step", "tokens per second", "peak memory", "planned")
        lines += [
            *markdown(head, rows),
            f"{result['model']}, {work['rows']} rows of {work['tokens']} tokens, rank "
            f"{work['rank']} on {', '.join(work['targets'])}: "
            f"{result['speed_ratio']:.2f}x as fast as the better of mlx-lm's, packed "
            f"weights in {result['memory_ratio']:.2f} of its memory. {provenance(run)}",
        ]
    return lines


def exactness_table() -> list[str]:
    """The largest error of a logit against the float64 reference."""
    run = read_run("exactness")
    result = dict(run["result"])
    largest = result.pop("largest logit")
    rows = [(way, f"{error:.1e}") for way, error in result.items()]
    head = ("", f"largest error, of logits up to {largest:.1f}")
    return [*markdown(head, rows), provenance(run)]


TABLES: dict[str, Callable[[], list[str]]] = {
    "decode": decode_table,
    "serve": serve_table,
    "turns": turns_table,
    "experts": experts_table,
    "convert": convert_table,
    "constrain": constrain_table,
    "stalls": stalls_table,
    "exactness": exactness_table,
    "tune": tune_table,
}


def render(text: str) -> str:
    """Return a README's text with every marked table replaced."""

    def replace(found: re.Match[str]) -> str:
        name = found["name"]
        return "\n".join([f"<!-- {name} -->", *TABLES[name](), "", "<!-- end -->"])

    return MARKED.sub(replace, text)


def read_run(name: str) -> dict[str, Any]:
    """Read one stored run: command, commit, date, machine and result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(head: Row, rows: Iterable[Row]) -> list[str]:
    """Return the lines of a Markdown table: the first column left, others right."""
    align = ["---", *["---:"] * (len(head) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return ["", lines[0], f"|{'|'.join(align)}|", *lines[1:], ""]


def provenance(run: dict[str, Any]) -> str:
    """Return the line that says how a result came about."""
    load = run["result"].get("load_average")
    busy = "" if load is None else f"; load average {load:.1f}"
    return (
        f"`{run['command']}`, {run['date']}, commit {run['commit']}, "
        f"{run['machine']}{busy}."
    )


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _level(level: dict[str, float]) -> tuple[str, str, str]:
    return (
        f"{level['tokens_per_second']:.0f}",
        f"{level['first_token_s']:.2f} s",
        f"{level['last_first_token_s']:.2f} s",
    )


def _bound(aim: dict[str, Any]) -> str:
    sign = ">=" if aim["at_least"] else "<="
    return f"{sign} {_quantity(aim['bound'], aim['unit'])}"


def _quantity(value: float, unit: str) -> str:
    return format_bytes(int(value)) if unit == "B" else f"{value:.3g} {unit}"


def _delays(delay: dict[str, float]) -> str:
    return f"{1e3 * delay['median']:.0f} / {1e3 * delay['most']:.0f} ms"


if __name__ == "__main__":
    text = render(README.read_text(encoding="utf-8"))
    write(README, text, private=False)
