"""Options given on the command line; refuses those that would do nothing."""

from collections.abc import Iterable
from typing import Any

import click
from click.core import ParameterSource


def is_given(name: str) -> bool:
    """Return whether the parameter `name` came from the command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def given_values(names: Iterable[str]) -> dict[str, Any]:
    """Return the values of those parameters that were given."""
    params = click.get_current_context().params
    return {name: params[name] for name in names if is_given(name)}


def refuse_given(names: Iterable[str], reason: str) -> None:
    """Raise UsageError for the first of some options that was given.

    `reason` follows the option's name, "--resume needs ...".
    """
    options = {x.name: x.opts[0] for x in click.get_current_context().command.params}
    for name in names:
        if is_given(name):
            raise click.UsageError(f"{options[name]} {reason}")
