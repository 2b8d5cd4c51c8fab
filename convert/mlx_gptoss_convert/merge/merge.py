"""Merge an adapter into a checkpoint: plan, write, measure, and say what was lost.

What was lost is measured before DST appears, so that no merged model lacks the figures
in its card. Peak memory: that of the conversion, then that of `measure/merge.py`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from mlx_gptoss.checkpoint.adapters import StoredAdapter
from mlx_gptoss.errors import CheckpointError, ConversionError
from mlx_gptoss_convert.measure.kl import HARMONY_TEXT, choose_texts
from mlx_gptoss_convert.measure.merge import (
    MEASURED,
    MergeLoss,
    add_loss_to_card,
    measure_merge,
)
from mlx_gptoss_convert.measure.texts import EvaluationText
from mlx_gptoss_convert.merge.alone import adapter_card
from mlx_gptoss_convert.plan.estimates import MAX_MEMORY, check_memory
from mlx_gptoss_convert.plan.merging import (
    Merge,
    identify_merge,
    merge_recipe,
    plan_merge,
)
from mlx_gptoss_convert.plan.plan import ConversionPlan
from mlx_gptoss_convert.plan.recipe import Recipe
from mlx_gptoss_convert.read.checkpoint import ConversionSource
from mlx_gptoss_convert.read.source import Progress
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.outputs import plan_output

NOT_MEASURED = (
    "what merging loses is not measured for a GGUF, which cannot be run here: merge to "
    "an MLX folder, too, to see it"
)


@dataclass(frozen=True)
class MergeOptions:
    """The options of `merge`."""

    recipe: Recipe
    to: str = "mlx"  # or "hf" or "gguf"
    dense_experts: bool = False
    text: Path | None = None  # None: the bundled conversations
    measures: bool = True
    pre: str | None = None
    max_memory: int = MAX_MEMORY


@dataclass(frozen=True)
class PreparedMerge:
    """Everything decided: the plan, and the texts to measure on, if any."""

    merge: Merge
    plan: ConversionPlan
    options: MergeOptions
    texts: list[EvaluationText]
    notes: tuple[str, ...] = ()


def prepare_merge(
    source: ConversionSource, adapter: StoredAdapter, options: MergeOptions
) -> PreparedMerge:
    """Plan a merge. Reads the adapter, and no weights of the model.

    Raises ConversionError for options that exclude each other, a plan that takes too
    much memory, and a model that the bundled conversations cannot be measured on.
    """
    check_options(options)
    checkpoint = source.checkpoint
    runnable = options.to != "gguf"
    measures = options.measures and runnable
    texts = open_texts(source, options.text) if measures else []
    merge = plan_merge(source, adapter)
    plan = plan_output(
        merge.merged,
        merge_recipe(options.recipe, checkpoint, options.to),
        to=options.to,
        keeps_dense=options.dense_experts,
        pre=options.pre,
    )
    unmeasured = "" if texts else f"\n{MEASURED}\n\nIt was not measured.\n"
    appendix = adapter_card(adapter) + unmeasured
    plan = replace(identify_merge(plan, merge), appendix=appendix)
    check_memory(plan, options.max_memory)
    unsaid = merge.merged.files.notes[len(source.files.notes) :]
    unmeasurable = (NOT_MEASURED,) if options.measures and not runnable else ()
    return PreparedMerge(merge, plan, options, texts, (*unsaid, *unmeasurable))


def check_options(options: MergeOptions) -> None:
    """Raise ConversionError for options that exclude each other."""
    if options.dense_experts and options.to == "gguf":
        raise ConversionError(
            "a GGUF of gpt-oss holds experts as MXFP4 only: leave `--experts dense` or "
            "`--to gguf` out"
        )
    if options.dense_experts and options.recipe.experts is not None:
        raise ConversionError(
            f"recipe `{options.recipe.name}` packs the experts: leave its `experts` or "
            "`--experts dense` out"
        )


def open_texts(source: ConversionSource, text: Path | None) -> list[EvaluationText]:
    """Return the texts to measure on; without any, say how to merge all the same."""
    try:
        return choose_texts(source, text)
    except (CheckpointError, ConversionError) as error:
        raise ConversionError(
            f"{error}; or do not measure what merging loses, with `--no-kl`"
        ) from error


def merge(
    prepared: PreparedMerge,
    dst: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> MergeLoss | None:
    """Write the merged model into the new folder `dst`; return what was lost.

    None is returned if it was not to be measured. Raises ConversionError, and then
    leaves at most `DST.partial`, which `resume` continues.
    """
    found: list[MergeLoss] = []

    def measure(folder: Path) -> None:
        text = prepared.options.text
        loss = measure_merge(
            prepared.merge,
            folder,
            prepared.texts,
            label=HARMONY_TEXT if text is None else text.name,
            progress=progress,
        )
        add_loss_to_card(loss, folder)
        found.append(loss)

    convert(
        prepared.plan,
        dst,
        resume=resume,
        progress=progress,
        finish=measure if prepared.texts else None,
    )
    return found[0] if found else None
