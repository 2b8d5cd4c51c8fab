"""Find or download the SRC that a command names."""

import math
from pathlib import Path

import click

from mlx_gptoss.cli.options import folder_or_name


def find_adapter(adapter: str) -> tuple[Path, float]:
    """Return the folder that ADAPTER names, and its factor: FOLDER or FOLDER:FACTOR."""
    from mlx_gptoss.errors import ConversionError

    place, _, factor = adapter.rpartition(":")
    for name, scale in ((adapter, "1"), (place, factor)):
        if name and Path(name).expanduser().exists() and is_number(scale):
            return Path(name).expanduser(), float(scale)
    raise ConversionError(f"`{adapter}` is no folder here: give an adapter's folder")


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def find_source(src: str, *, offline: bool) -> Path:
    """Return the file or folder that SRC names; download it if it is a Hub id."""
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss_convert.read.checkpoint import find_gguf_files

    path = Path(src).expanduser()
    if not path.is_file():
        path = Path(src := folder_or_name(src)).expanduser()
    if path.is_file() or find_gguf_files(path):
        return path
    services = click.get_current_context().find_object(Services) or Services()
    return services.fetch_source(src, offline=offline)
