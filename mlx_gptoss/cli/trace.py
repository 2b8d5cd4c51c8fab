"""`mlx-gptoss trace`: record the routing of a run, and replay it with fewer slots."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.input_lines import read_all
from mlx_gptoss.cli.options import json_option, loads_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions

SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1.0)


@click.group(short_help="Record and replay routing")
def trace() -> None:
    """Record which experts a model uses, and replay it with any number of slots."""


@trace.command(short_help="Record the routing of one run")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("prompt", required=False)
@loads_model
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Most tokens to decode",
)
@pass_services
def record(
    services: Services,
    file: Path,
    prompt: str | None,
    model: str,
    options: "LoadOptions",
    tokens: int,
) -> None:
    """Answer PROMPT (or stdin) as plain text and write the routing to FILE.

    \b
    mlx-gptoss trace record routing.trace "Tell me a story" --tokens 300
    mlx-gptoss trace replay routing.trace --slots 16 --slots 32
    """
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.model.experts.trace import recording, save_trace

    text = prompt if prompt is not None else read_all()
    with services.open(model, options) as runtime:
        ids = runtime.tokenizer.encode(text)
        params = SamplingParams(max_tokens=tokens, temperature=0)
        with recording(runtime.model) as recorder:
            for _ in runtime.generate(ids, params):
                pass
        found = recorder.trace(model)
    save_trace(found, file)
    note(
        f"{len(found.routing)} tokens ({found.decoded} decoded) of {found.layers} "
        f"layers in {file} ({file.stat().st_size:,} bytes)"
    )


@trace.command(short_help="Hit rates of a trace by number of slots")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    multiple=True,
    help="Slots per layer; may be repeated [default: fractions of all experts]",
)
@click.option(
    "--policy",
    type=click.Choice(["lru", "lfu", "ideal"]),
    multiple=True,
    default=("lru",),
    show_default=True,
    help="Eviction policy; may be repeated",
)
@json_option
def replay(
    file: Path, slots: tuple[int, ...], policy: tuple[str, ...], as_json: bool
) -> None:
    """Print the hit rate of a recorded run for any number of slots."""
    from mlx_gptoss.model.experts.replay import replay as run
    from mlx_gptoss.model.experts.trace import open_trace

    found = open_trace(file)
    k = found.routing.shape[2]
    chosen = slots or sorted({max(k, round(s * found.experts)) for s in SHARES})
    rows = [
        {"slots": n, "policy": name, "hit_rate": run(found, n, name).hit_rate}
        for n in chosen
        for name in policy
    ]
    if as_json:
        facts = {
            "model": found.model,
            "tokens": len(found.routing),
            "decoded": found.decoded,
            "layers": found.layers,
            "experts": found.experts,
            "rates": rows,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{'slots':>5}  {'share':>5}  policy  hit rate")
    for row in rows:
        share = row["slots"] / found.experts
        click.echo(
            f"{row['slots']:>5}  {share:>5.0%}  {row['policy']:<6}  "
            f"{row['hit_rate']:.3f}"
        )
