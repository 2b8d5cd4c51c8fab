"""The command `verify`."""

from pathlib import Path

import click

from mlx_gptoss.checkpoint.hub.local_models import DEMO
from mlx_gptoss_convert.cli.sources import find_source


@click.command(name="verify", short_help="Verify a conversion")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--against", metavar="SRC", help="The checkpoint FOLDER was made from")
@click.option("--kl", is_flag=True, help="Run both models and compare predictions")
@click.option(
    "--text",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Text to run on, instead of the bundled Harmony conversations",
)
@click.option(
    "--calibrate",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measure the KL of each kind of tensor, for `convert --calibration FILE`",
)
@click.option(
    "--experts-modes",
    is_flag=True,
    help="Run resident, hybrid and streamed experts and compare their logits",
)
@click.option("--offline", is_flag=True, help="Never touch the network")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON lines")
def verify_command(
    folder: Path,
    against: str | None,
    kl: bool,
    text: Path | None,
    calibrate: Path | None,
    experts_modes: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Check the digests and values of a converted FOLDER, also --against its source.

    Against the source, every byte of the experts is compared and the error of the other
    weights is measured; --kl also runs both models, one layer at a time. The findings
    are saved in FOLDER, in report.json and the model card. With --experts-modes, any
    model (FOLDER, a Hub id or `demo`) is run in every mode of expert storage.
    """
    if experts_modes:
        from mlx_gptoss.cli.verify_storage import verify_modes

        if against or kl or text or calibrate:
            raise click.UsageError(
                "--experts-modes takes no other option than --json and --offline"
            )
        here = folder.is_dir() and str(folder) != DEMO
        found = folder if here else find_source(str(folder), offline=offline)
        verify_modes(found, as_json=as_json)
        return
    from mlx_gptoss.errors import ConversionError
    from mlx_gptoss_convert.cli.progress import Bar, JsonLines, show_report
    from mlx_gptoss_convert.measure.card import add_to_card
    from mlx_gptoss_convert.measure.report import save_report
    from mlx_gptoss_convert.measure.verify import verify

    if (kl and against is None) or (text is not None and not (kl or calibrate)):
        raise ConversionError(
            "`--text` needs `--kl` or `--calibrate`, and `--kl` needs `--against SRC`"
        )
    source = None if against is None else find_source(against, offline=offline)
    with JsonLines() if as_json else Bar("Verifying") as progress:
        report = verify(folder, source, progress=progress)
    if kl and source is not None and report.is_sound:
        from mlx_gptoss_convert.measure.kl import add_divergence

        with JsonLines() if as_json else Bar("Running both") as progress:
            add_divergence(report, folder, source, text=text, progress=progress)
    if calibrate is not None and report.is_sound:
        from mlx_gptoss_convert.measure.calibrate import calibrate_folder

        with JsonLines() if as_json else Bar("Calibrating") as progress:
            calibrate_folder(folder, calibrate, text=text, progress=progress)
    show_report(report, as_json=as_json)
    if against is not None:
        save_report(report, folder)
        add_to_card(report, folder)
    if not report.is_sound:
        raise ConversionError(
            f"`{folder}` is not as it should be ({len(report.faults)} faults above): "
            "convert again"
        )
