"""The workflows of GitHub run commands that exist here."""

import os
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from mlx_gptoss.cli import cli

ROOT = Path(__file__).resolve().parents[2]


def commands(name: str) -> list[str]:
    """Return every line that a workflow runs."""
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    jobs: dict[str, Any] = yaml.safe_load(text)["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    return [line for s in steps if "run" in s for line in s["run"].splitlines()]


def check_command(group: click.Command, words: list[str]) -> None:
    """Parse a command line without running it. Raises UsageError for a wrong one."""
    context = click.Context(group, **group.context_settings)
    while isinstance(group, click.Group):
        found = group.get_command(context, words[0])
        assert found is not None, words[0]
        group, words = found, words[1:]
        if isinstance(group, click.Group):
            context = click.Context(group, parent=context)
    # With a parent, since a command keeps the help option of its first context.
    group.make_context(group.name, list(words), parent=context)


def test_ci_is_the_script_that_runs_here() -> None:
    assert ".ci/run" in commands("ci")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_mac_run_tests_examines_and_measures() -> None:
    lines = commands("mac")

    assert any(line.startswith("pytest -m metal ") for line in lines)
    assert any("doctor --self-test" in line for line in lines)
    assert any("bench decode -m demo" in line for line in lines)


@pytest.mark.parametrize("line", [x for x in commands("mac") if "mlx-gptoss" in x])
def test_a_command_of_the_mac_run_is_one_of_ours(line: str) -> None:
    program, *words = shlex.split(line.partition(" > ")[0])

    assert program == "mlx-gptoss"
    check_command(cli, words)
