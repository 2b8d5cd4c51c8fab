"""`mlx-gptoss bench serve`: many streams at once, beside other servers."""

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


@click.command(short_help="Throughput and first token of a server")
@loads_model
@click.option(
    "--against",
    multiple=True,
    metavar="mlx-lm|URL",
    help="Also measure mlx-lm's server on the same folder, or a running server with "
    "OpenAI's API, on the same prompts in turns; may be repeated",
)
@click.option(
    "--against-model",
    metavar="NAME",
    help="Model to ask the server at the URL for  [default: the only one it lists]",
)
@click.option(
    "--against-key",
    metavar="KEY",
    envvar="MLX_GPTOSS_AGAINST_KEY",
    help="API key of the server at the URL  [default: $MLX_GPTOSS_AGAINST_KEY]",
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    multiple=True,
    help="Requests at once; may be repeated. [default: 1, 4, 16]",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Approximate tokens of each prompt",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    help="Tokens of each answer",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are their medians",
)
@click.option(
    "--prompts",
    type=click.Choice(["raw", "chat"]),
    default="raw",
    show_default=True,
    help="Raw completions, or chat completions",
)
@click.option(
    "--turns",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Requests of each conversation; every one but the first adds 32 tokens",
)
@click.option(
    "--think-time",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between an answer and the next request",
)
@click.option(
    "--tail",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Send the same prompt in every turn, whose last N tokens differ",
)
@click.option(
    "--prefilled",
    is_flag=True,
    help="Send each prompt once before, so that decoding alone is measured",
)
@click.option(
    "--beside",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Send N long prompts once all streams have begun",
)
@click.option(
    "--beside-tokens",
    type=click.IntRange(min=1),
    default=3000,
    show_default=True,
    help="Tokens of the long prompts",
)
@click.option(
    "--fairness",
    metavar="SHARE",
    type=click.FloatRange(0, 1, max_open=True),
    help="Of our server, as of `serve`",
)
@bench_output
@pass_services
def serve(
    services: Services,
    *,
    model: str,
    options: "LoadOptions",
    output: BenchOutput,
    **measured: Any,
) -> None:
    """Measure a server with many streams: throughput, first token, time per token.

    Ours and mlx-lm's run in their own processes, with the same dtype and BLAS. A server
    at a URL (LM Studio, Ollama, llama-server, ...) is measured in the same rounds as it
    runs. Ratios above 1 say that mlx_gptoss is faster. Prompt tokens that were read,
    and not found in a cache, are shown where a server says them.
    """
    from mlx_gptoss.diagnostics.bench.serve import bench_serve

    folder = services.find(model, options)
    found = bench_serve(folder, options, progress=note, **measured)
    output.show(found, table)


def table(found: Any) -> str:
    """Return one row per server and number of streams, turns, ratios and notes."""
    lines = [_levels(found), *_beside(found), *_turns(found)]
    lines += [f"{side.name}: {side.failure}" for side in found.sides if side.failure]
    lines += [f"{side.name}: {note}" for side in found.sides for note in side.notes]
    for other in found.sides[1:]:
        ratios = [
            f"{ratio.streams} streams {ratio.throughput:.2f}x, "
            f"first token {ratio.first_token:.2f}x" + _gaps(ratio)
            for ratio in found.ratios
            if ratio.against == other.name
        ]
        if ratios:
            lines.append(f"{found.sides[0].name} / {other.name}: " + "; ".join(ratios))
    lines.append(
        f"{found.prompt_tokens} tokens read and {found.tokens} said by each stream, "
        f"medians of {found.rounds} rounds; {found.model}, {found.dtype}, on "
        f"{found.machine}; load average {found.load_average:.1f}"
    )
    return "\n".join(lines)


def _levels(found: Any) -> str:
    head = [
        "",
        "streams",
        "throughput",
        "first token",
        "the last of them",
        "next token",
        "99 %",
        "longest",
    ]
    rows = [head]
    for side in found.sides:
        rows += [
            [
                side.name,
                str(level.streams),
                f"{level.tokens_per_second:.1f} tok/s",
                f"{level.first_token_s:.2f} s",
                f"{level.last_first_token_s:.2f} s",
                *map(_milliseconds, (level.gap_s, level.gap_p99_s)),
                _milliseconds(level.longest_gap_s),
            ]
            for level in side.levels
        ]
    return aligned(rows, columns=len(head))


def _beside(found: Any) -> list[str]:
    """Return a line per server and number of streams beside which prompts were read."""
    return [
        f"{side.name}, {level.streams} streams: long prompts have their first token "
        f"after {level.beside_first_token_s:.2f} s; meanwhile a stream keeps "
        f"{_percent(level.beside_pace)} of its pace"
        for side in found.sides
        for level in side.levels
        if level.beside_first_token_s is not None
    ]


def _turns(found: Any) -> list[str]:
    """Return a table of the turns, if several or if a server says what it read."""
    levels = [(side, level) for side in found.sides for level in side.levels]
    said = any(turn.read_tokens is not None for _, x in levels for turn in x.turns)
    if found.turns == 1 and not said:
        return []
    rows = [["", "streams", "turn", "first token", "prompt", "read"]]
    rows += [
        [
            side.name,
            str(level.streams),
            str(turn.turn),
            f"{turn.first_token_s:.2f} s",
            f"{turn.prompt_tokens:,.0f}",
            NOTHING if turn.read_tokens is None else f"{turn.read_tokens:,.0f}",
        ]
        for side, level in levels
        for turn in level.turns
    ]
    return ["", aligned(rows, columns=6), ""]


def _gaps(ratio: Any) -> str:
    named = (("next token", ratio.gap), ("longest gap", ratio.longest_gap))
    return "".join(f", {name} {gap:.2f}x" for name, gap in named if gap is not None)


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.0%}"


def _milliseconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{1e3 * seconds:.0f} ms"
