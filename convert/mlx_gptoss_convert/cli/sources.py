"""Find or download the SRC that a command names."""

from pathlib import Path

import click

from mlx_gptoss.cli.options import folder_or_name


def find_adapter(adapter: str, *, offline: bool) -> tuple[Path, float]:
    """Return the folder of ADAPTER and its factor; download it if it is a Hub id."""
    from mlx_gptoss.checkpoint.hub.adapters import resolve_adapter
    from mlx_gptoss.cli.progress import DownloadProgress
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss.engine.adapter_source import parse_adapter

    source = parse_adapter(adapter)
    services = click.get_current_context().find_object(Services) or Services()
    with DownloadProgress(source.place) as shown:
        folder = resolve_adapter(
            source.place,
            hub=services.hub,
            offline=offline,
            progress=shown,
            notify=shown.say,
        )
    return folder, source.scale


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
