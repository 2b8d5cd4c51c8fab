"""`mlx-gptoss bench stalls`: how heavy requests delay the others."""

from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.bench_output import BenchOutput, bench_output
from mlx_gptoss.cli.bench_tables import NOTHING
from mlx_gptoss.cli.options import loads_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions

HEAD = [
    "beside",
    "size",
    "status",
    "took",
    "/health",
    "first token",
    "token gap",
    "memory",
]


@click.command(short_help="Effect of heavy requests on others")
@loads_model
@click.option(
    "--heavy",
    multiple=True,
    metavar="NAME",
    help="One of the heavy requests, by its name in the table; may be repeated. "
    "[default: all]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds to repeat each request; at least once",
)
@bench_output
@pass_services
def stalls(
    services: Services,
    *,
    model: str,
    options: "LoadOptions",
    output: BenchOutput,
    **measured: Any,
) -> None:
    """Measure `/health` and a short stream during each heavy request.

    Times are medians and the longest; memory is by how much the server has grown.
    The first row has no heavy request.
    """
    from mlx_gptoss.diagnostics.bench.stalls import bench_stalls

    folder = services.find(model, options)
    found = bench_stalls(folder, options, progress=note, **measured)
    output.show(found, table)


def table(found: Any) -> str:
    """Return one row per heavy request."""
    rows = [HEAD]
    for row in found.rows:
        rows.append(
            [
                row.name,
                f"{row.megabytes:.1f} MB" if row.status else NOTHING,
                str(row.status or NOTHING),
                f"{row.seconds:.2f} s" if row.seconds is not None else NOTHING,
                *map(times, (row.health, row.first_token, row.token_gap)),
                f"{row.kept_bytes / 1e6:+.0f} MB",
            ]
        )
    where = f"{found.model} on {found.machine}; load average {found.load_average:.1f}"
    return "\n".join([aligned(rows, columns=len(HEAD)), where])


def times(measured: Any) -> str:
    """Format the median and the maximum, in milliseconds."""
    return f"{measured.median * 1e3:.0f} / {measured.most * 1e3:.0f} ms"
