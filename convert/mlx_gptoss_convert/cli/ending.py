"""The end of `convert` and `merge`: the next command, or how to resume."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_gptoss.checkpoint.hub import is_path
from mlx_gptoss.cli.model_folders import remember_folder
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import StorageError


@contextmanager
def says_how_to_resume(dst: Path) -> Iterator[None]:
    """Say on an interrupt that the same command with `--resume` goes on."""
    from mlx_gptoss_convert.write.conversion import partial_folder

    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        partial = partial_folder(dst)
        if partial.exists():
            note(
                f"(interrupted; `{partial}` keeps what is written: run the same "
                "command with --resume to go on)"
            )
        raise


def show_next(dst: Path, to: str, *, classifier: bool = False) -> None:
    """Print the command that runs the result; `models` lists it from now on."""
    if to == "gguf":
        file = min(dst.glob("*.gguf"), default=dst)
        note(f"Next: llama-server -m {shlex.quote(str(file))}")
        return
    try:
        remember_folder(dst)
    except StorageError as error:
        note(f"(`mlx-gptoss models` will not list it elsewhere: {error})")
    name = str(dst) if is_path(str(dst)) else f"./{dst}"
    command = "redact" if classifier else "chat"
    note(f"Next: mlx-gptoss {command} -m {shlex.quote(name)}")
