"""Options that constrain an answer, shared by `generate` and `chat`."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.input_lines import text_expected

if TYPE_CHECKING:
    from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat

NAMES = (
    "max_reasoning",
    "json_schema",
    "regex",
    "grammar",
    "stop",
    "constrain",
    "no_loop_guard",
)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OPTIONS = (
    click.option(
        "--max-reasoning",
        metavar="N",
        type=click.IntRange(min=0),
        help="Most tokens of reasoning before the answer [default: no limit]",
    ),
    click.option(
        "--json-schema",
        metavar="FILE",
        type=FILE,
        help="Answer in JSON that follows the schema in this file",
    ),
    click.option(
        "--regex",
        metavar="PATTERN",
        help="Answer in text that matches a regular expression",
    ),
    click.option(
        "--grammar",
        metavar="FILE",
        type=FILE,
        help="Answer in the language of this grammar, in Lark or GBNF",
    ),
    click.option(
        "--stop",
        metavar="TEXT",
        multiple=True,
        help="End the answer before this text; may be repeated",
    ),
    click.option(
        "--constrain",
        metavar="WHAT",
        type=click.Choice(["all", "headers", "off"]),
        default="all",
        show_default=True,
        help="What is constrained: all, headers (not tool arguments), or off",
    ),
    click.option(
        "--no-loop-guard",
        is_flag=True,
        help="Do not cut text that repeats itself",
    ),
)


def takes_constraints(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add OPTIONS to a command, which receives `constraints: Constraints`."""

    @wraps(function)
    def wrapper(
        *args: Any,
        max_reasoning: int | None,
        json_schema: Path | None,
        regex: str | None,
        grammar: Path | None,
        stop: tuple[str, ...],
        constrain: Any,
        no_loop_guard: bool,
        **rest: Any,
    ) -> Any:
        from mlx_gptoss.harmony.constrain.constraints import Constraints

        constraints = Constraints(
            enforce=constrain,
            max_reasoning_tokens=max_reasoning,
            response_format=_answer_format(json_schema, regex, grammar),
            stop=stop,
            loop_guard=not no_loop_guard,
        )
        return function(*args, constraints=constraints, **rest)

    for option in reversed(OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def _answer_format(
    json_schema: Path | None, regex: str | None, grammar: Path | None
) -> "AnswerFormat | None":
    from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat

    given = [one for one in (json_schema, regex, grammar) if one is not None]
    if len(given) > 1:
        raise click.UsageError("give one of --json-schema, --regex and --grammar")
    if json_schema is not None:
        return AnswerFormat.json_schema(_schema(json_schema))
    if grammar is not None:
        with text_expected(f"`{grammar}`"):
            return AnswerFormat.grammar(grammar.read_text("utf-8"))
    return None if regex is None else AnswerFormat.regex(regex)


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise click.UsageError(f"`{path}` is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise click.UsageError(f"`{path}` is not a JSON schema: it must be an object")
    return schema
