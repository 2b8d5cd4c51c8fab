"""`mlx-gptoss chat`: a conversation, line by line.

Lines that start with `/` are commands to the program, all others go to the model.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.constraints import note_cuts, takes_constraints
from mlx_gptoss.cli.lines import Lines, open_lines
from mlx_gptoss.cli.options import LoadOptions, loads_model
from mlx_gptoss.cli.sampling import EFFORTS, sampling_params, takes_sampling
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.statistics import expert_lines, one_line
from mlx_gptoss.cli.terminal import Screen, note
from mlx_gptoss.cli.tools import ToolOptions, open_tools, show_sources, takes_tools
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.events import Answer, Done

if TYPE_CHECKING:
    from mlx_gptoss.chat import Chat
    from mlx_gptoss.harmony.constrain import Constraints
    from mlx_gptoss.steps import Statistics
    from mlx_gptoss.tools.browser import Browser

HELP = """\
/effort low|medium|high   how long the model reasons
/system TEXT              instructions for the model; without TEXT, none
/reset                    forget the conversation
/stats                    how fast the last answer was
/help                     this list
Ctrl-C stops an answer and keeps what came; Ctrl-D leaves"""


@click.command(short_help="Hold a conversation")
@loads_model
@takes_sampling
@takes_constraints
@takes_tools
@click.option(
    "--overflow",
    type=click.Choice(["error", "drop-oldest"]),
    default="error",
    show_default=True,
    help="When the conversation outgrows --context: refuse, or drop oldest turns",
)
@click.option("--hide-reasoning", is_flag=True, help="Show the answers only")
@pass_services
def chat(
    services: Services,
    options: LoadOptions,
    effort: str,
    system: str | None,
    constraints: "Constraints",
    overflow: str,
    hide_reasoning: bool,
    tool_options: ToolOptions,
    **sampling: Any,
) -> None:
    """Hold a conversation; /help lists what can be changed in it.

    Answers go to stdout as they come, reasoning to stderr. Questions may be piped
    in, one a line. Nothing is stored. The model has no tools unless you give it some.
    """
    params = sampling_params(**sampling)
    with (
        open_tools(tool_options, offline=options.offline) as given,
        services.open(options) as runtime,
    ):
        conversation = services.start_chat(
            runtime,
            effort=effort,
            system=system,
            params=params,
            constraints=constraints,
            tools=given.tools,
            approve=given.approval,
            overflow=overflow,
        )
        lines = open_lines()
        if lines.interactive:
            note("/help for help, Ctrl-D to leave")
            if conversation.tools:
                note(f"Tools: {', '.join(conversation.tools)}")
        Repl(
            conversation, lines, hide_reasoning=hide_reasoning, browser=given.browser
        ).run()


class Repl:
    """Reads lines, obeys commands, shows answers."""

    def __init__(
        self,
        chat: "Chat",
        lines: Lines,
        *,
        hide_reasoning: bool,
        browser: "Browser | None" = None,
    ) -> None:
        self.chat = chat
        self.lines = lines
        self.hide_reasoning = hide_reasoning
        self.browser = browser
        self.stats: Statistics | None = None

    def run(self) -> None:
        """Go on until the input ends."""
        for line in self._questions():
            if line.startswith("/"):
                self.obey(line)
            else:
                self.answer(line)

    def answer(self, text: str) -> None:
        """Show the answer to `text`; Ctrl-C ends it and keeps what came."""
        screen = Screen(hide_reasoning=self.hide_reasoning)
        answer = ""
        try:
            with closing(self.chat.send(text)) as events:
                for event in events:
                    screen.show(event)
                    if isinstance(event, Answer):
                        answer += event.text
                    elif isinstance(event, Done):
                        self.stats = event.stats
        except KeyboardInterrupt:
            if not self.lines.interactive:
                raise
            screen.end()
            note("(stopped)")
        except GptOssError as error:
            # One question can be too long; the conversation is still good.
            if not self.lines.interactive:
                raise
            screen.end()
            click.echo(f"Error: {error}", err=True)
        finally:
            screen.end()
        note_cuts(self.stats)
        show_sources(self.browser, answer)

    def obey(self, line: str) -> None:
        """Carry out a `/command`."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        commands = {
            "effort": self._effort,
            "system": self._system,
            "reset": self._reset,
            "stats": self._stats,
            "help": lambda _: note(HELP),
        }
        command = commands.get(name)
        if command is None:
            note(f"There is no /{name}; /help lists what there is")
        else:
            command(rest)

    def _questions(self) -> Iterator[str]:
        for line in self.lines:
            if line.strip():
                yield line.strip()

    def _effort(self, effort: str) -> None:
        if effort in EFFORTS:
            self.chat.effort = effort
        elif effort:
            note(f"/effort takes {', '.join(EFFORTS)}")
        note(f"Effort: {self.chat.effort}")

    def _system(self, text: str) -> None:
        self.chat.system = text or None
        note(f"Instructions: {text or 'none'}")

    def _reset(self, _: str) -> None:
        self.chat.reset()
        note("Forgotten")

    def _stats(self, _: str) -> None:
        note(one_line(self.stats) if self.stats else "Nothing was answered yet")
        experts = getattr(getattr(self.chat, "runtime", None), "stats", None)
        if self.stats and experts:
            note("\n".join(expert_lines(experts)))
