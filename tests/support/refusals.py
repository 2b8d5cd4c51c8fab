"""The error of a command line that is refused before anything begins."""

from click.testing import CliRunner

from mlx_gptoss.cli import cli


def refusal(*arguments: str) -> str:
    """Return the last line of the error of a command that must not have begun."""
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 2, found.output
    return found.stderr.splitlines()[-1]
