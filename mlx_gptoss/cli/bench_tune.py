"""`mlx-gptoss bench tune`: speed and memory of training an adapter."""

from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.bench_output import BenchOutput, bench_output
from mlx_gptoss.cli.bench_tables import NOTHING
from mlx_gptoss.cli.options import collect, loads_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.cli.tune.options import WordsType
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions

POSITIVE = click.IntRange(min=1)


@click.command("tune", short_help="Training steps of an adapter")
@loads_model
@click.option(
    "--against",
    type=click.Choice(["mlx-lm"]),
    help="Also train with a peer on the same folder and rows, step by step",
)
@click.option(
    "--rows", type=POSITIVE, default=4, show_default=True, help="Rows of a step"
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=128,
    show_default=True,
    help="Tokens of a row",
)
@click.option(
    "--prompt",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Tokens at the start of a row that are not learned",
)
@click.option(
    "--rank", type=POSITIVE, default=8, show_default=True, help="Rank of every update"
)
@click.option(
    "--target",
    "targets",
    type=WordsType("attention", "router", "experts"),
    default="attention",
    show_default=True,
    metavar="TARGETS",
    help="Weights to update: attention, router, experts; with commas between them",
)
@click.option(
    "--steps",
    type=POSITIVE,
    default=2,
    show_default=True,
    help="Steps of each engine in a round",
)
@click.option(
    "--rounds",
    type=POSITIVE,
    default=5,
    show_default=True,
    help="Interleaved rounds; figures are the medians of all steps",
)
@bench_output
@pass_services
def tune(
    services: Services,
    *,
    model: str,
    options: "LoadOptions",
    output: BenchOutput,
    against: str | None,
    steps: int,
    rounds: int,
    **given: Any,
) -> None:
    """Measure training steps on random tokens: time, memory, and loss.

    With `--against mlx-lm` the trainer of mlx-lm makes the same steps in its own
    processes: compiled, and with MLX's compiler switched off. Both are warm. A speed
    ratio above 1 says that mlx_gptoss is faster than the better of them.
    """
    from mlx_gptoss.diagnostics.bench.tune import bench_tune
    from mlx_gptoss.diagnostics.bench.tune_results import TrainingWork

    work = collect(TrainingWork, given)
    found = bench_tune(
        services.find(model, options),
        options,
        work,
        against=against,
        steps=steps,
        rounds=rounds,
        progress=note,
    )
    output.show(found, training_table)


def training_table(found: Any) -> str:
    """Return one row per engine, and the ratios."""
    head = [
        "",
        "a step",
        "fastest",
        "tokens",
        "memory",
        "planned",
        "process",
        "weights",
    ]
    rows = [head]
    for each in found.columns:
        if each.failure:
            rows.append([each.name, *([NOTHING] * (len(head) - 1))])
            continue
        planned = each.planned_memory
        rows.append(
            [
                each.name,
                f"{each.step_s:.3f} s",
                f"{each.fastest_s:.3f} s",
                f"{each.tokens_per_second:,.0f} tok/s",
                format_bytes(each.peak_memory),
                NOTHING if planned is None else format_bytes(planned),
                format_bytes(each.peak_rss),
                each.weights,
            ]
        )
    lines = [aligned(rows, columns=len(head))]
    lines += [f"{x.name}: {x.failure}" for x in found.columns if x.failure]
    if found.speed_ratio is not None:
        memory = found.memory_ratio
        of_memory = "" if memory is None else f", packed in {memory:.2f} of its memory"
        lines.append(
            f"mlx_gptoss / the better of {found.peer}: {found.speed_ratio:.2f}x"
            f"{of_memory}"
        )
    work, first = found.work, found.columns[0]
    lines.append(
        f"{work.rows} rows of {work.tokens} tokens, rank {work.rank} on "
        f"{', '.join(work.targets)}, {first.dtype}, BLAS {first.blas}; medians of "
        f"{first.steps} steps"
    )
    lines.append(
        f"{found.model} on {found.machine}; load average {found.load_average:.1f}"
    )
    return "\n".join(lines)
