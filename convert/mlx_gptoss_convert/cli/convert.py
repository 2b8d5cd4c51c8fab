"""The commands `convert` and `verify`: parse, call one function, report."""

from pathlib import Path

import click

from mlx_gptoss.checkpoint.hub.local_models import DEMO
from mlx_gptoss.cli.options import MemorySize, folder_or_name
from mlx_gptoss.cli.terminal import note
from mlx_gptoss_convert.plan.recipe import DEFAULT, EXPERT_BITS, RECIPES

LAYOUTS = ("packed", "split")
OUTPUTS = ("mlx", "hf", "gguf")


@click.command(name="convert", short_help="Convert a checkpoint")
@click.argument("src", metavar="SRC")
@click.argument("dst", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    default=DEFAULT,
    show_default=True,
    help=f"What to keep: {', '.join(RECIPES)}, or a TOML file",
)
@click.option(
    "--target-size",
    type=MemorySize(),
    help="Choose the best recipe whose folder is no larger, 12GB for example",
)
@click.option(
    "--fit-memory",
    type=MemorySize(),
    help="Choose the best recipe that runs on a Mac with so much memory, 16GB",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens of context that --fit-memory leaves room for  [default: 8192]",
)
@click.option(
    "--calibration",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measured KL by kind of tensor, to choose by instead of a table",
)
@click.option(
    "--to",
    type=click.Choice(OUTPUTS),
    default=OUTPUTS[0],
    show_default=True,
    help="An MLX folder, Hugging Face's MXFP4 layout, or a GGUF for llama.cpp",
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default=LAYOUTS[0],
    show_default=True,
    help="Experts as OpenAI packed them, or gate and up apart",
)
@click.option(
    "--expert-bits",
    type=click.Choice([str(bits) for bits in EXPERT_BITS]),
    help="Experts affine in groups of 64: 3 bits lose quality, more must be forced",
)
@click.option(
    "--expert-format",
    type=click.Choice(["keep", "mxfp4"]),
    default="keep",
    show_default=True,
    help="Affine experts of the source as they are, or as MXFP4",
)
@click.option(
    "--tokenizer",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="A tokenizer.json, or its folder, in the place of the source's",
)
@click.option(
    "--tokenizer-pre",
    metavar="NAME",
    help="llama.cpp's name of how the tokenizer cuts text, for --to gguf",
)
@click.option("--force", is_flag=True, help="Do what is refused because it only harms")
@click.option(
    "--max-memory",
    type=MemorySize(),
    default="1GB",
    show_default=True,
    help="Memory the conversion may take, above the program itself",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted conversion")
@click.option("--dry-run", is_flag=True, help="Show every tensor's fate, write nothing")
@click.option("--offline", is_flag=True, help="Never touch the network")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON lines")
def command(
    src: str,
    dst: Path,
    recipe: str,
    target_size: int | None,
    fit_memory: int | None,
    context: int | None,
    calibration: Path | None,
    to: str,
    layout: str,
    expert_bits: str | None,
    expert_format: str,
    tokenizer: Path | None,
    tokenizer_pre: str | None,
    force: bool,
    max_memory: int,
    resume: bool,
    dry_run: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SRC into the new folder DST.

    SRC is a folder, a safetensors file, a GGUF with MXFP4 experts, a Hub id or a GGUF
    of the Hub, OWNER/NAME/FILE.gguf. Experts keep their bytes; the recipe says what
    becomes of the rest.
    """
    from mlx_gptoss_convert.cli.progress import (
        Bar,
        JsonLines,
        show_frontier,
        show_plan,
        show_result,
    )
    from mlx_gptoss_convert.plan.estimates import check_memory
    from mlx_gptoss_convert.plan.plan import ConversionPlan
    from mlx_gptoss_convert.plan.recipe import (
        Recipe,
        check_recipe,
        open_recipe,
        with_experts,
    )
    from mlx_gptoss_convert.plan.sizing import (
        SizeRequest,
        check_size_request,
        find_recipe,
    )
    from mlx_gptoss_convert.read.checkpoint import open_source
    from mlx_gptoss_convert.write.conversion import convert
    from mlx_gptoss_convert.write.model_card import cost_of_experts
    from mlx_gptoss_convert.write.outputs import plan_output

    chosen = with_experts(
        open_recipe(recipe),
        bits=None if expert_bits is None else int(expert_bits),
        mxfp4=expert_format == "mxfp4",
    )
    check_recipe(chosen, force=force, to=to)
    request = SizeRequest(target_size, fit_memory, context, calibration)
    opened = open_source(find_source(src, offline=offline), tokenizer=tokenizer)
    for line in opened.notes:
        note(line)
    if chosen.experts is not None and chosen.experts.mode == "affine" and not force:
        click.echo(f"Experts: {cost_of_experts(chosen.experts)}", err=True)

    def plan_for(recipe: Recipe) -> ConversionPlan:
        return plan_output(opened, recipe, to=to, experts=layout, pre=tokenizer_pre)

    if request.is_set:
        check_size_request(request, to=to, recipe_given=given("recipe"))
        found = find_recipe(plan_for, chosen, opened.checkpoint.config, request)
        show_frontier(found, as_json=as_json)
        chosen = found.chosen.recipe
    plan = plan_for(chosen)
    check_memory(plan, max_memory)
    if dry_run:
        show_plan(plan, as_json=as_json)
        return
    with JsonLines() if as_json else Bar("Converting") as progress:
        convert(plan, dst, resume=resume, progress=progress)
    show_result(plan, dst, as_json=as_json)


def given(option: str) -> bool:
    """Say whether the user wrote an option of the running command."""
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def find_source(src: str, *, offline: bool) -> Path:
    """Find the file or folder that SRC names, downloading it if it is a Hub id."""
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss_convert.read.checkpoint import find_gguf_files

    path = Path(src).expanduser()
    if not path.is_file():
        path = Path(src := folder_or_name(src)).expanduser()
    if path.is_file() or find_gguf_files(path):
        return path
    services = click.get_current_context().find_object(Services) or Services()
    return services.fetch_source(src, offline=offline)


@click.command(name="verify", short_help="Prove what a conversion did")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--against", metavar="SRC", help="The checkpoint FOLDER was made of")
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
    help="Measure what each kind of tensor costs, for `convert --calibration FILE`",
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
    """Check a converted FOLDER: its digests and values, and its source with --against.

    Against the source, every byte of the experts is compared and the error of the
    rest is measured; with --kl both models are run too, one layer at a time. What was
    found is kept in FOLDER: in report.json and the model card. With --experts-modes
    any model (FOLDER, a Hub id or `demo`) is run with its experts kept in every way.
    """
    if experts_modes:
        from mlx_gptoss.cli.modes import verify_modes

        if against or kl or text or calibrate:
            raise click.UsageError("--experts-modes stands alone")
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
    if kl and source is not None and not report.faults:
        from mlx_gptoss_convert.measure.kl import add_divergence

        with JsonLines() if as_json else Bar("Running both") as progress:
            add_divergence(report, folder, source, text=text, progress=progress)
    if calibrate is not None and not report.faults:
        from mlx_gptoss_convert.measure.calibrate import calibrate_folder

        with JsonLines() if as_json else Bar("Calibrating") as progress:
            calibrate_folder(folder, calibrate, text=text, progress=progress)
    show_report(report, as_json=as_json)
    if against is not None:
        save_report(report, folder)
        add_to_card(report, folder)
    if report.faults:
        raise ConversionError(
            f"`{folder}` is not as it should be ({len(report.faults)} faults above): "
            "convert again"
        )
