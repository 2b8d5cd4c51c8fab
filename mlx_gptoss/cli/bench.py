"""`mlx-gptoss bench`: measure speed, beside a peer under equal conditions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.bench_batch import batch
from mlx_gptoss.cli.bench_decode import decode
from mlx_gptoss.cli.bench_output import BenchOutput, bench_output, compare
from mlx_gptoss.cli.bench_redact import redact
from mlx_gptoss.cli.bench_serve import serve
from mlx_gptoss.cli.bench_stalls import stalls
from mlx_gptoss.cli.bench_tables import (
    constrain_table,
    experts_table,
    turns_table,
)
from mlx_gptoss.cli.bench_tune import tune
from mlx_gptoss.cli.lazy import LazyCommand, LazyGroup
from mlx_gptoss.cli.options import (
    MemorySizeType,
    loads_model,
)
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions

# The converter stands on this package, so its command is found by name.
CONVERT = LazyCommand(
    "mlx_gptoss_convert.cli.bench",
    "bench_convert_command",
    "Speed and memory of converting",
)


@click.group(cls=LazyGroup, lazy={"convert": CONVERT}, short_help="Measure speed")
def bench() -> None:
    """Measure speed and memory on this machine."""


bench.add_command(batch)
bench.add_command(compare)
bench.add_command(decode)
bench.add_command(redact)
bench.add_command(serve)
bench.add_command(stalls)
bench.add_command(tune)


@bench.command(short_help="Tokens prefilled at each turn of a conversation")
@loads_model
@click.option(
    "--against",
    type=click.Choice(["mlx-lm"]),
    help="Also measure a peer's server on the same folder and prompts",
)
@click.option(
    "--turns",
    type=click.IntRange(min=3),
    default=10,
    show_default=True,
    help="Turns of the conversation; every third one calls a tool",
)
@click.option(
    "--system-tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Approximate length of the system message",
)
@click.option(
    "--restart-tokens",
    type=click.IntRange(min=0),
    default=8192,
    show_default=True,
    help="Length of a prompt to load from disk after a restart; 0 for none",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Conversations, each with empty caches; figures are their medians",
)
@bench_output
@pass_services
def turns(
    services: Services,
    *,
    model: str,
    options: "LoadOptions",
    system_tokens: int,
    output: BenchOutput,
    **measured: Any,
) -> None:
    """Measure a long conversation: tokens prefilled per turn, time to first token.

    Back to back, the last answer has to be prefilled as history shows it, without its
    reasoning, and the new message; after idle time, only the new message.
    """
    from mlx_gptoss.diagnostics.bench.turn_script import Lengths
    from mlx_gptoss.diagnostics.bench.turns import bench_turns

    folder = services.find(model, options)
    found = bench_turns(
        folder,
        options,
        lengths=Lengths(system=system_tokens),
        progress=note,
        **measured,
    )
    output.show(found, turns_table)


@bench.command(short_help="Cost of constraints")
@loads_model
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Tokens of the prompt",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Tokens to decode after it",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Alternating rounds; the fastest tenth is compared",
)
@bench_output
@pass_services
def constrain(
    services: Services,
    *,
    model: str,
    options: "LoadOptions",
    output: BenchOutput,
    **measured: Any,
) -> None:
    """Measure decoding of free text with and without constraints.

    Constraints keep headers and control tokens legal. The cost is the share of time
    that they add to a token.
    """
    from mlx_gptoss.diagnostics.bench.constrain import bench_constrain

    folder = services.find(model, options)
    found = bench_constrain(folder, options, progress=note, **measured)
    output.show(found, constrain_table)


@bench.command("experts", short_help="Loading and streaming of experts")
@click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A checkpoint with MXFP4 experts [default: a temporary random one, shaped "
    "like the 120b]",
)
@click.option(
    "--layers",
    type=click.IntRange(min=2),
    default=2,
    show_default=True,
    help="Layers of the random checkpoint, of 1.7 GB each",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are their medians",
)
@bench_output
def experts(model: Path | None, layers: int, rounds: int, output: BenchOutput) -> None:
    """Measure loading and streaming of experts, beside mlx-lm and plain reads.

    Every run has a process of its own. Ends with the error of the planner's prediction
    for this machine.
    """
    from mlx_gptoss.diagnostics.bench.experts import bench_experts

    found = bench_experts(model, layers=layers, rounds=rounds, progress=note)
    output.show(found, experts_table)


@bench.command("make-random", short_help="Write a random model for benchmarks")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--size",
    type=MemorySizeType(),
    default="200MB",
    show_default=True,
    help="Least size of the weights",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the weights"
)
def make_random(folder: Path, size: int, seed: int) -> None:
    """Write a random gpt-oss checkpoint in the published layout, for benchmarks.

    Its weights are noise: it cannot chat, and has no tokenizer. Prints the folder.
    """
    from mlx_gptoss.diagnostics.bench.random_checkpoint import write_random

    click.echo(write_random(folder, size, seed=seed))
