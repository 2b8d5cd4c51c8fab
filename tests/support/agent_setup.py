"""Run `agents setup`, also in processes whose system fails."""

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli

OLD = 'model = "gpt-5-codex"\n\n[tui]\nnotifications = true\n'
FAILING = """
import errno, os, sys
event, count = sys.argv.pop(1), int(sys.argv.pop(1))
def hook(seen, _arguments):
    global count
    if seen == event:
        count -= 1
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
from mlx_gptoss.cli import cli
sys.addaudithook(hook)
cli()
"""


def set_up(tool: str = "codex", *more: str) -> Result:
    """Change the default settings of a tool, or those in a `--file`."""
    chosen = [] if "--file" in more else ["--default"]
    words = ["agents", "setup", tool, "-m", "demo", *chosen, *more]
    return CliRunner().invoke(cli, words)


def failing(event: str, count: int, tool: str) -> subprocess.CompletedProcess[str]:
    """Set a tool up in a process whose system fails at the `count`th `event`."""
    command = [sys.executable, "-c", FAILING, event, str(count), "agents", "setup"]
    return subprocess.run(
        [*command, tool, "-m", "demo", "--default"], capture_output=True, text=True
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())
