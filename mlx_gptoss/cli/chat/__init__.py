"""`mlx-gptoss chat` and `run`: conversations in a terminal, in a pipe, or one message.

__init__      the commands: turn options into a ChatLoop with an interface
meant_model   names of models where a message was expected, and Ollama's names
loop          answers messages and runs /commands
commands/     /commands, each declared once for its action, help and completion
web           the same conversations in a browser
session       the chat with its model, tools, attached files and storage
interface     what the loop needs of a screen; plain (lines), full_screen (terminal)
full_screen   uses prompt, completion, pastes, live_answer, typed_ahead, keys, approval
answer        the content of one turn; markdown, mathematics, layout and live_tail
              display it
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.constraint_options import takes_constraints
from mlx_gptoss.cli.given import given_values
from mlx_gptoss.cli.options import (
    adapter_option,
    model_argument,
    model_option,
    named_model,
    takes_load_options,
)
from mlx_gptoss.cli.sampling_options import takes_sampling
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.shell_words import complete_sessions
from mlx_gptoss.cli.storage_options import is_private, keeps_prompts
from mlx_gptoss.cli.tool_options import ToolOptions, takes_tools

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.harmony.constrain.constraints import Constraints


CHAT_OPTIONS = (
    click.option(
        "--overflow",
        type=click.Choice(["error", "drop-oldest"]),
        default="error",
        show_default=True,
        help="If the conversation outgrows --context: refuse, or drop the oldest turns",
    ),
    click.option("--hide-reasoning", is_flag=True, help="Show the answers only"),
    click.option("--continue", "resume", is_flag=True, help="Resume the last chat"),
    click.option(
        "--session",
        metavar="ID",
        shell_complete=complete_sessions,
        help="Resume this chat (see /sessions)",
    ),
    click.option("--web", is_flag=True, help="Chat in the browser instead"),
)


def takes_chat(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a conversation, besides those that choose its model."""
    for option in reversed(CHAT_OPTIONS):
        function = option(function)
    for add in (
        takes_tools,
        takes_constraints,
        takes_sampling,
        keeps_prompts,
        adapter_option,
    ):
        function = add(function)
    return function


@click.command(short_help="Hold a conversation")
@click.argument("prompt", required=False)
@model_option
@takes_load_options
@takes_chat
@pass_services
def chat(
    services: Services, prompt: str | None, model: str | None, **given: Any
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
    from mlx_gptoss.cli.chat.meant_model import is_meant

    if prompt is not None and model is None and is_meant(services, prompt):
        prompt, model = None, prompt
    hold_chat(services, named_model(model), prompt, **given)


@click.command(name="run", short_help="Chat with a model, as `ollama run` does")
@model_argument(required=False)
@click.argument("prompt", required=False)
@takes_load_options
@takes_chat
@pass_services
def run_command(
    services: Services, model: str | None, prompt: str | None, **given: Any
) -> None:
    """Chat with MODEL; with PROMPT, answer it and end.

    MODEL is a path (./x), a Hub id (a/b) or `demo`, and downloaded if necessary.
    `gpt-oss:20b` and `gpt-oss:120b` are names of OpenAI's models. Without MODEL it is
    the default model.

    \b
    mlx-gptoss run openai/gpt-oss-20b
    mlx-gptoss run demo "What is 417 + 285?"
    """
    from mlx_gptoss.cli.chat.meant_model import published_name

    name = named_model(published_name(model) if model else None)
    hold_chat(services, name, prompt, once=prompt is not None, **given)


def hold_chat(
    services: Services,
    model: str,
    prompt: str | None,
    *,
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
    web: bool,
    once: bool = False,
) -> None:
    """Hold a conversation with a model; `once` ends it after the answer to `prompt`."""
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
        once=once,
    )
    options = replace(options, harmony=True)
    if web:
        from mlx_gptoss.cli.chat.web import hold_page

        hold_page(services, model, options, setup, tool_options, start)
        return
    hold(services, model, options, setup, tool_options, start)
    sys.stdout.flush()
