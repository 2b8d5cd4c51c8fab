"""`mlx-gptoss probe`: measure this machine for later plans."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.options import MemorySizeType, json_option
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.files import make_folder, require_writable

if TYPE_CHECKING:
    from mlx_gptoss.memory.saved_probe import Probe


@click.command(short_help="Measure this disk and device")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder on the disk that holds the models [default: your home]",
)
@click.option(
    "--size",
    type=MemorySizeType(),
    default="1GB",
    show_default=True,
    help="Bytes to write and read; deleted afterwards",
)
@click.option(
    "--force", is_flag=True, help="Keep what was measured although the machine was busy"
)
@json_option
@pass_services
def probe(
    services: Services, *, folder: Path | None, size: int, force: bool, as_json: bool
) -> None:
    """Measure disk, memory and arithmetic of this machine, for later plans.

    The disk is read past the system's cache. What is measured while other programs are
    at work would be wrong later, so that it is printed but not kept, unless `--force`
    is given; plans then say so.
    """
    from mlx_gptoss.memory.saved_probe import probe_file, save_probe

    make_folder(probe_file().parent)
    require_writable(probe_file())
    found = services.probe(folder, size=size, progress=note)
    path = save_probe(found) if force or not found.doubts else None
    if as_json:
        file = None if path is None else str(path)
        click.echo(json.dumps(asdict(found) | {"file": file}, indent=2))
    else:
        click.echo("\n".join(_figures(found)))
    doubts = "; ".join(found.doubts)
    if path is None:
        raise GptOssError(
            f"nothing was kept, because {doubts}: probe again when nothing else runs, "
            "or keep it with `--force`"
        )
    note(f"kept in {path}" + (f", although {doubts}" if doubts else ""))


def _figures(found: "Probe") -> list[str]:
    lines = [
        f"disk    {found.ssd / 1e9:.2f} GB/s, uncached",
        f"memory  {found.bandwidth / 1e9:.1f} GB/s",
    ]
    if found.experts:
        lines.append(f"experts {found.experts / 1e9:.1f} GB/s, multiplied")
    lines.append(f"wait    {1e3 * found.sync_seconds:.3f} ms a streamed layer")
    if found.costs is not None:
        lines.append(f"layer   {1e3 * found.costs.layer:.3f} ms beside its products")
    return lines
