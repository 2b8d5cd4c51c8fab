"""`mlx-gptoss chat`: a conversation in a terminal, in a pipe, or with one message.

__init__      the command: turns options into a ChatLoop with an interface
loop          answers messages and runs /commands
commands/     /commands, each declared once for its action, help and completion
session       the chat with its model, tools, attached files and storage
interface     what the loop needs of a screen; plain (lines), full_screen (terminal)
full_screen   uses prompt, completion, live_answer, keys, approval
answer        the content of one turn; markdown, layout and live_tail display it
"""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.constraint_options import takes_constraints
from mlx_gptoss.cli.given import given_values
from mlx_gptoss.cli.options import adapter_option, loads_model
from mlx_gptoss.cli.sampling_options import takes_sampling
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.storage_options import is_private, keeps_prompts
from mlx_gptoss.cli.tool_options import ToolOptions, takes_tools

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.harmony.constrain.constraints import Constraints


@click.command(short_help="Hold a conversation")
@click.argument("prompt", required=False)
@loads_model
@adapter_option
@keeps_prompts
@takes_sampling
@takes_constraints
@takes_tools
@click.option(
    "--overflow",
    type=click.Choice(["error", "drop-oldest"]),
    default="error",
    show_default=True,
    help="If the conversation outgrows --context: refuse, or drop the oldest turns",
)
@click.option("--hide-reasoning", is_flag=True, help="Show the answers only")
@click.option("--continue", "resume", is_flag=True, help="Resume the last chat")
@click.option("--session", metavar="ID", help="Resume this chat (see /sessions)")
@pass_services
def chat(
    services: Services,
    prompt: str | None,
    model: str,
    options: "LoadOptions",
    effort: str,
    system: str | None,
    params: "SamplingParams",
    constraints: "Constraints",
    overflow: str,
    hide_reasoning: bool,
    tool_options: ToolOptions,
    resume: bool,
    session: str | None,
) -> None:
    """Hold a conversation; /help lists its commands.

    With PROMPT, answer it first. Without a terminal that is all, and the text on stdin
    is appended to it. Answers go to stdout, the rest to stderr. While a long prompt is
    read, a terminal shows how much of it, at what speed, and for how long. The model
    has no tools unless you give it some.

    \b
    mlx-gptoss chat
    git diff | mlx-gptoss chat "review this"
    mlx-gptoss chat --continue
    """
    from mlx_gptoss.cli.chat.session import SessionOptions
    from mlx_gptoss.cli.chat.start import StartOptions, hold

    if resume and session:
        raise click.UsageError("--continue and --session name a chat each: give one")
    private = is_private()
    if private and (resume or session):
        raise click.UsageError("--private saves nothing to resume")
    setup = SessionOptions(
        effort,
        system,
        params,
        constraints,
        overflow,
        said=given_values(["effort", "system"]),
        private=private,
    )
    start = StartOptions(
        prompt=prompt,
        reasoning="hide" if hide_reasoning else "fold",
        session=session,
        resume=resume,
    )
    options = replace(options, harmony=True)
    hold(services, model, options, setup, tool_options, start)
    sys.stdout.flush()
