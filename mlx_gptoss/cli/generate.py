"""`mlx-gptoss generate PROMPT`: answer one prompt."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.constraint_options import NAMES, takes_constraints
from mlx_gptoss.cli.finish_notes import note_ending
from mlx_gptoss.cli.given import refuse_given
from mlx_gptoss.cli.input_lines import read_all
from mlx_gptoss.cli.options import adapter_option, json_option, loads_model
from mlx_gptoss.cli.reading import ReadingLine
from mlx_gptoss.cli.sampling_options import takes_sampling
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.statistics import expert_facts, expert_lines, one_line
from mlx_gptoss.cli.storage_options import keeps_prompts
from mlx_gptoss.cli.terminal import JsonTranscript, Screen, note
from mlx_gptoss.harmony.events import Answer, Done, Event

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.runtime import Runtime
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.harmony.constrain.constraints import Constraints

HARMONY_ONLY = (
    "effort",
    "system",
    "hide_reasoning",
    *(name for name in NAMES if name != "stop"),
)


@click.command(short_help="Answer one prompt")
@click.argument("prompt", required=False)
@loads_model
@adapter_option
@keeps_prompts
@takes_sampling
@takes_constraints
@click.option(
    "--raw", is_flag=True, help="Continue PROMPT as plain text, without Harmony"
)
@click.option("--hide-reasoning", is_flag=True, help="Show the answer only")
@click.option("--stats", is_flag=True, help="Print speed and memory to stderr")
@json_option
@pass_services
def generate(
    services: Services,
    prompt: str | None,
    model: str,
    options: "LoadOptions",
    effort: str,
    system: str | None,
    params: "SamplingParams",
    constraints: "Constraints",
    raw: bool,
    hide_reasoning: bool,
    stats: bool,
    as_json: bool,
) -> None:
    """Answer PROMPT, or the text on stdin.

    The answer is streamed to stdout, the reasoning to stderr. While a long prompt is
    read, a terminal shows how much of it, at what speed, and for how long.

    \b
    mlx-gptoss generate "What is 417 + 285?" --temperature 0
    git diff | mlx-gptoss generate --system "Write a commit message."
    """
    text = _prompt_text(prompt)
    if raw:
        refuse_given(HARMONY_ONLY, "needs Harmony: leave out --raw")
    from mlx_gptoss.engine.adapter_source import only_adapter

    adapter = only_adapter(options.adapter_sources)
    reading = ReadingLine()
    with services.open(model, replace(options, harmony=not raw)) as runtime:
        if adapter is not None:
            runtime.use_adapter(adapter)
        if raw:
            from mlx_gptoss.engine.raw_text import continue_text

            events = continue_text(
                runtime,
                text,
                params,
                stop=constraints.stop,
                on_progress=reading.update,
            )
        else:
            chat = services.start_chat(
                runtime,
                effort=effort,
                system=system,
                params=params,
                constraints=constraints,
                on_progress=reading.update,
            )
            events = chat.send(text)
        events = reading.watch(events)
        if as_json:
            _print_json(events, runtime, hide_reasoning=hide_reasoning)
        else:
            _print(events, Screen(hide_reasoning=hide_reasoning), stats=stats)
        if stats and (experts := getattr(runtime, "stats", None)):
            note("\n".join(expert_lines(experts)))


def _prompt_text(prompt: str | None) -> str:
    """Return the argument, or all of stdin if it is missing or `-`."""
    if prompt in (None, "-"):
        if prompt is None and sys.stdin.isatty():
            raise click.UsageError("give a PROMPT, or pipe one in")
        prompt = read_all().strip()
    if not prompt:
        raise click.UsageError("the prompt is empty")
    return prompt


def _print(events: Iterator[Event], screen: Screen, *, stats: bool) -> None:
    answer, done = "", None
    try:
        for event in events:
            screen.show(event)
            answer += event.text if isinstance(event, Answer) else ""
            done = event if isinstance(event, Done) else done
    finally:
        screen.end()
    note_ending(done.stats if done else None, answer=answer)
    if done and done.stats and stats:
        note(one_line(done.stats))


def _print_json(
    events: Iterator[Event], runtime: "Runtime", *, hide_reasoning: bool
) -> None:
    transcript = JsonTranscript()
    for event in events:
        transcript.show(event)
    found = transcript.as_dict()
    if hide_reasoning:
        del found["reasoning"]
    if experts := getattr(runtime, "stats", None):
        found["experts"] = expert_facts(experts)
    click.echo(json.dumps(found, ensure_ascii=False, indent=2))
