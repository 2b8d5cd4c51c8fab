"""The command `merge`."""

from pathlib import Path

import click

from mlx_gptoss.cli.given import refuse_given
from mlx_gptoss.cli.options import model_argument
from mlx_gptoss.cli.shell_words import complete_adapters
from mlx_gptoss.cli.terminal import note
from mlx_gptoss_convert.cli.ending import says_how_to_resume, show_next
from mlx_gptoss_convert.cli.sources import find_adapter, find_source
from mlx_gptoss_convert.cli.writing_options import (
    recipe_option,
    refuse_unused,
    takes_writing,
)

EXPERTS = ("mxfp4", "dense")
OUTPUTS = ("mlx", "hf", "gguf", "peft", "mlx-lm")


@click.command(name="merge", short_help="Merge an adapter into a model")
@model_argument(metavar="MODEL")
@click.argument("adapter", metavar="ADAPTER", shell_complete=complete_adapters)
@click.argument("dst", metavar="DST", type=click.Path(path_type=Path))
@recipe_option
@click.option(
    "--experts",
    type=click.Choice(EXPERTS),
    default=EXPERTS[0],
    show_default=True,
    help="Encode updated experts, which loses small updates, or keep them as floats",
)
@click.option(
    "--to",
    type=click.Choice(OUTPUTS),
    default=OUTPUTS[0],
    show_default=True,
    help="An MLX folder, Hugging Face's layout, a GGUF, or the adapter alone, "
    "for PEFT or mlx-lm",
)
@click.option(
    "--text",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Text to measure the loss on, instead of the bundled Harmony conversations",
)
@click.option(
    "--no-kl", is_flag=True, help="Do not run the models to measure what was lost"
)
@takes_writing("merge")
def merge_command(
    model: str,
    adapter: str,
    dst: Path,
    recipe: str,
    experts: str,
    to: str,
    text: Path | None,
    no_kl: bool,
    tokenizer: Path | None,
    tokenizer_pre: str | None,
    force: bool,
    max_memory: int,
    resume: bool,
    dry_run: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Merge the adapter ADAPTER into MODEL, as the new folder DST.

    ADAPTER is a folder of PEFT, mlx-lm or Unsloth, or a Hub id, with a factor if
    wanted: FOLDER:0.5. What merging loses is measured against MODEL with the adapter,
    and printed. MXFP4 cannot hold small updates of experts: `--experts dense` can.
    """
    from mlx_gptoss.checkpoint.adapters import open_adapter
    from mlx_gptoss_convert.cli.progress import (
        Bar,
        JsonLines,
        show_alone,
        show_loss,
        show_plan,
        show_result,
    )
    from mlx_gptoss_convert.merge.alone import ADAPTER_LAYOUTS, write_alone
    from mlx_gptoss_convert.merge.merge import MergeOptions, merge, prepare_merge
    from mlx_gptoss_convert.plan.recipe import check_recipe, open_recipe
    from mlx_gptoss_convert.read.checkpoint import open_source

    refuse_unused(to, adapter_alone=to in ADAPTER_LAYOUTS)
    if no_kl:
        refuse_given(["text"], "does nothing with --no-kl: leave one of them out")
    chosen = open_recipe(recipe)
    check_recipe(chosen, force=force, to="mlx" if to in ADAPTER_LAYOUTS else to)
    source = open_source(find_source(model, offline=offline), tokenizer=tokenizer)
    for line in source.notes:
        note(line)
    folder, scale = find_adapter(adapter, offline=offline)
    opened = open_adapter(folder, source.checkpoint.config, scale=scale)
    if to in ADAPTER_LAYOUTS:
        if not dry_run:
            write_alone(opened, dst, layout=to, base=model)
        show_alone(len(opened.paths), dst, dry_run=dry_run, as_json=as_json)
        return
    options = MergeOptions(
        recipe=chosen,
        to=to,
        dense_experts=experts == "dense",
        text=text,
        measures=not no_kl,
        pre=tokenizer_pre,
        max_memory=max_memory,
    )
    prepared = prepare_merge(source, opened, options)
    if dry_run:
        show_plan(prepared.plan, as_json=as_json)
        return
    for line in prepared.notes:
        note(line)
    with (
        says_how_to_resume(dst),
        JsonLines() if as_json else Bar("Merging") as progress,
    ):
        loss = merge(prepared, dst, resume=resume, progress=progress)
    show_result(prepared.plan, dst, as_json=as_json)
    if loss is not None:
        show_loss(loss, as_json=as_json)
    show_next(dst, to)
