"""The command `convert`."""

from pathlib import Path

import click

from mlx_gptoss.cli.given import is_given, refuse_given
from mlx_gptoss.cli.options import MemorySizeType, model_argument
from mlx_gptoss.cli.terminal import note
from mlx_gptoss_convert.cli.ending import says_how_to_resume, show_next
from mlx_gptoss_convert.cli.sources import describe_disk, find_source
from mlx_gptoss_convert.cli.writing_options import (
    recipe_option,
    refuse_unused,
    takes_writing,
)
from mlx_gptoss_convert.plan.recipe import EXPERT_BITS

LAYOUTS = ("packed", "split")
OUTPUTS = ("mlx", "hf", "gguf")
OF_LANGUAGE_MODELS = (
    "target_size",
    "fit_memory",
    "calibration",
    "to",
    "layout",
    "expert_bits",
    "expert_format",
)


@click.command(name="convert", short_help="Convert a checkpoint")
@model_argument("src", metavar="SRC")
@click.argument("dst", metavar="DST", type=click.Path(path_type=Path))
@recipe_option
@click.option(
    "--target-size",
    type=MemorySizeType(),
    help="Choose the best recipe whose folder is no larger, 12GB for example",
)
@click.option(
    "--fit-memory",
    type=MemorySizeType(),
    help="Choose the best recipe for a Mac with this much memory, 16GB for example",
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
    help="Measured KL by kind of tensor, used instead of the built-in table",
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
    help="Experts as OpenAI packed them, or gate and up separate",
)
@click.option(
    "--expert-bits",
    type=click.Choice([str(bits) for bits in EXPERT_BITS]),
    help="Affine experts in groups of 64; 3 loses quality, others need --force",
)
@click.option(
    "--expert-format",
    type=click.Choice(["keep", "mxfp4"]),
    default="keep",
    show_default=True,
    help="Keep affine experts of the source, or encode them as MXFP4",
)
@takes_writing("conversion")
def convert_command(
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

    SRC is a folder, a safetensors file, a GGUF, a Hub id, a GGUF or a folder of a
    repository on the Hub (OWNER/NAME/FILE.gguf, OWNER/NAME/FOLDER), or a model of
    Ollama's (ollama:gpt-oss:20b) or LM Studio's (lmstudio:PUBLISHER/NAME). Experts in
    MXFP4 keep their bytes; the recipe sets the bits of the other weights.
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
    from mlx_gptoss_convert.write.conversion import (
        check_destination,
        convert,
        partial_folder,
    )
    from mlx_gptoss_convert.write.model_card import cost_of_experts
    from mlx_gptoss_convert.write.outputs import plan_output

    refuse_unused(to)
    chosen = with_experts(
        open_recipe(recipe),
        bits=None if expert_bits is None else int(expert_bits),
        mxfp4=expert_format == "mxfp4",
    )
    check_recipe(chosen, force=force, to=to)
    request = SizeRequest(target_size, fit_memory, context, calibration)
    place = find_source(src, offline=offline)
    opened = open_source(place, tokenizer=tokenizer, classifier=None)
    for line in opened.notes:
        note(line)
    if chosen.experts is not None and chosen.experts.mode == "affine" and not force:
        click.echo(f"Experts: {cost_of_experts(chosen.experts)}", err=True)

    def plan_for(recipe: Recipe) -> ConversionPlan:
        return plan_output(opened, recipe, to=to, experts=layout, pre=tokenizer_pre)

    if opened.checkpoint.config.is_classifier:
        refuse_given(OF_LANGUAGE_MODELS, "is for language models: leave it out")
    if request.is_set:
        check_size_request(request, to=to, recipe_given=is_given("recipe"))
        found = find_recipe(plan_for, chosen, opened.checkpoint.config, request)
        show_frontier(found, as_json=as_json)
        chosen = found.chosen.recipe
    plan = plan_for(chosen)
    check_memory(plan, max_memory)
    if dry_run:
        show_plan(plan, as_json=as_json)
        return
    check_destination(dst, partial_folder(dst), resume=resume)
    note(f"`{dst}`: {describe_disk(plan, dst.parent)}")
    with (
        says_how_to_resume(dst),
        JsonLines() if as_json else Bar("Converting") as progress,
    ):
        convert(plan, dst, resume=resume, progress=progress)
    show_result(plan, dst, as_json=as_json)
    show_next(dst, to, classifier=opened.checkpoint.config.is_classifier)
