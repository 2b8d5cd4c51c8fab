"""Find or download the SRC that a command names, and say what converting it takes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.options import folder_or_name

if TYPE_CHECKING:
    from mlx_gptoss_convert.plan.plan import ConversionPlan


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
    from mlx_gptoss.checkpoint.hub.other_apps import find_app_model, is_app_name
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss_convert.read.checkpoint import find_gguf_files

    path = Path(src).expanduser()
    if is_app_name(src) and not path.exists():
        return find_app_model(src)
    if not path.is_file():
        path = Path(src := folder_or_name(src)).expanduser()
    if path.is_file() or find_gguf_files(path):
        return path
    services = click.get_current_context().find_object(Services) or Services()
    return services.fetch_source(src, offline=offline)


def describe_result(src: str) -> str:
    """Say what converting a local SRC with the default recipe takes of disk.

    Reads headers only. Raises GptOssError if SRC cannot be converted.
    """
    from mlx_gptoss_convert.plan.recipe import DEFAULT, RECIPES
    from mlx_gptoss_convert.read.checkpoint import open_source
    from mlx_gptoss_convert.write.outputs import plan_output

    opened = open_source(find_source(src, offline=True))
    plan = plan_output(opened, RECIPES[DEFAULT])
    return describe_disk(plan, Path())


def describe_disk(plan: "ConversionPlan", folder: Path) -> str:
    """Say what a plan takes of the disk that `folder` is on."""
    from mlx_gptoss.memory import format_bytes
    from mlx_gptoss_convert.write.conversion import free_bytes

    need, free = format_bytes(plan.nbytes), format_bytes(free_bytes(folder))
    return f"it takes {need} of disk, where {free} are free"
