"""`mlx-gptoss probe`: measure this machine for later plans."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from mlx_gptoss.cli.options import MemorySizeType, json_option
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.files import make_folder, require_writable


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
@json_option
def probe(folder: Path | None, size: int, as_json: bool) -> None:
    """Measure disk, memory and synchronization of this machine, for later plans.

    The disk is read past the system's cache.
    """
    from mlx_gptoss.diagnostics.probe import probe as measure
    from mlx_gptoss.memory.saved_probe import probe_file, save_probe

    make_folder(probe_file().parent)
    require_writable(probe_file())
    found = measure(folder, size=size, progress=note)
    path = save_probe(found)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"file": str(path)}, indent=2))
        return
    click.echo(f"disk    {found.ssd / 1e9:.2f} GB/s, uncached")
    click.echo(f"memory  {found.bandwidth / 1e9:.1f} GB/s")
    if found.experts:
        click.echo(f"experts {found.experts / 1e9:.1f} GB/s, multiplied")
    click.echo(f"wait    {1e3 * found.sync_seconds:.3f} ms a streamed layer")
    note(f"kept in {path}")
