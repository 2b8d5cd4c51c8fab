"""Measure what merging an adapter lost: against the model with the adapter, unmerged.

The predictions of the merged model and of the base are compared with those of the base
and its adapter, layer by layer (see `kl`). Weights of updated experts are compared with
the exact sums. Peak memory: that of `kl`, and three copies of one expert in float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.files import write
from mlx_gptoss.format.layout import EXPERTS, PACKED, Matrix, matrices
from mlx_gptoss_convert.measure.divergence import Divergence
from mlx_gptoss_convert.measure.kl import HARMONY_TEXT, diverge
from mlx_gptoss_convert.measure.layers import CheckpointModel
from mlx_gptoss_convert.measure.matrices import MatrixReader
from mlx_gptoss_convert.measure.texts import EvaluationText
from mlx_gptoss_convert.plan.merging import Merge
from mlx_gptoss_convert.read.source import Progress, TensorReader
from mlx_gptoss_convert.steps.merged import add_product
from mlx_gptoss_convert.write.model_card import CARD

MOST_LOST = 0.5  # of the divergence between base and adapter, before it is a warning
MEASURED = "## What merging lost"


@dataclass
class UpdateLoss:
    """How much of the updates of experts is left in the merged weights."""

    values: int = 0
    changed: int = 0  # values that differ from the base's
    update: float = 0.0  # sum of the squares of the update
    error: float = 0.0  # sum of the squares of merged weight - exact sum

    def add(self, base: np.ndarray, made: np.ndarray, exact: np.ndarray) -> None:
        """Add one expert: its weight before, after, and the exact sum."""
        self.values += made.size
        self.changed += int((made != base).sum())
        self.update += squares(exact - base)
        self.error += squares(made - exact)

    @property
    def relative_error(self) -> float:
        """The rms error of the merged weights, as a share of the update's rms."""
        return (self.error / self.update) ** 0.5 if self.update else 0.0

    @property
    def changed_share(self) -> float:
        return self.changed / self.values


@dataclass(frozen=True)
class MergeLoss:
    """What a merge lost; `text` names the text it was measured on."""

    text: str
    merged: Divergence = field(repr=False)  # of the merged model from the adapted one
    base: Divergence = field(repr=False)  # of the base from the adapted model
    experts: UpdateLoss | None = None  # None if no experts are updated

    @property
    def lost(self) -> float:
        """The share of the adapter's effect that is lost: 1 is the base itself."""
        return self.merged.kl / self.base.kl if self.base.kl else 0.0

    def as_dict(self) -> dict[str, Any]:
        facts = {
            "text": self.text,
            "merged": self.merged.as_dict(),
            "base": self.base.as_dict(),
            "lost": self.lost,
        }
        if self.experts is not None:
            facts["experts"] = {
                "changed": self.experts.changed_share,
                "relative_error": self.experts.relative_error,
            }
        return facts

    def warning(self) -> str | None:
        """Return a warning if the result is far from the model with the adapter.

        Either the updates of experts are lost, or the recipe rounds other weights by
        more than the adapter changes them.
        """
        if self.lost <= MOST_LOST:
            return None
        if self.experts is not None and self.experts.relative_error > MOST_LOST:
            lost = f"{min(self.lost, 1):.0%}"
            return (
                f"merging lost {lost} of what the adapter does to predictions: "
                "`--experts dense` keeps the updates of experts"
            )
        return (
            "rounding the weights moved predictions as much as the adapter does "
            f"({self.merged.kl:.5f} against {self.base.kl:.5f} nats): `--recipe "
            "lossless` rounds least"
        )


def squares(values: np.ndarray) -> float:
    flat = values.reshape(-1).astype(np.float64)
    return float(flat @ flat)


def measure_merge(
    merge: Merge,
    folder: Path,
    texts: list[EvaluationText],
    *,
    label: str = HARMONY_TEXT,
    progress: Progress | None = None,
) -> MergeLoss:
    """Measure a merged folder that this project or transformers can open."""
    source, made = merge.source.checkpoint, open_checkpoint(folder)
    updated = [path for path in merge.adapter.paths if ".mlp.experts." in path]
    same = {
        matrix.path
        for matrix in matrices(source.config, PACKED)
        if matrix.part == EXPERTS
    }
    with TensorReader() as one, TensorReader() as two, TensorReader() as three:
        teacher = CheckpointModel(source, one, adapter=merge.adapter)
        students = [
            CheckpointModel(made, two),
            CheckpointModel(source, three, shared=same),
        ]
        merged, base = diverge(teacher, students, texts, progress=progress)
    experts = compare_experts(merge, made, updated) if updated else None
    return MergeLoss(label, merged, base, experts)


def compare_experts(merge: Merge, made: Checkpoint, paths: list[str]) -> UpdateLoss:
    """Compare the weights of updated experts with the exact sums, one by one."""
    source = merge.source.checkpoint
    by_path = {matrix.path: matrix for matrix in matrices(source.config, PACKED)}
    loss = UpdateLoss()
    with TensorReader() as left, TensorReader() as right:
        before, after = MatrixReader(source, left), MatrixReader(made, right)
        for path in paths:
            for base, exact, expert in exact_experts(merge, before, by_path[path]):
                loss.add(base, after.expert(path, expert), exact)
    return loss


def exact_experts(
    merge: Merge, before: MatrixReader, matrix: Matrix
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield each expert's weight (out, in) without and with the update."""
    update = merge.adapter.read(matrix.path)
    for expert in range(matrix.shape[0]):
        base = before.expert(matrix.path, expert)
        exact = np.array(base)
        add_product(exact, update.b[expert].T, update.a[expert].T)
        yield base, exact, expert


def add_loss_to_card(loss: MergeLoss, folder: Path) -> None:
    """Append what was measured to the model card, replacing an earlier measurement."""
    path = folder / CARD
    card = path.read_text(encoding="utf-8").partition(MEASURED)[0].rstrip()
    write(path, f"{card}\n\n{loss_text(loss)}", private=False)


def loss_text(loss: MergeLoss) -> str:
    """Format the divergences as a table, with a line on the experts."""
    rows = [
        MEASURED,
        f"Predictions at {loss.merged.positions} positions of {loss.text}, against the "
        "base with its adapter, unmerged:",
        "| | this model | the base without the adapter |\n|---|---:|---:|\n"
        + "\n".join(
            f"| {name} | {show(loss.merged)} | {show(loss.base)} |"
            for name, show in COLUMNS.items()
        ),
    ]
    if loss.experts is not None:
        rows.append(
            f"Of the weights of updated experts {loss.experts.changed_share:.2%} "
            "differ from the base's; their rms error is "
            f"{loss.experts.relative_error:.0%} of the update's rms."
        )
    warning = loss.warning()
    if warning is not None:
        rows.append(f"**{warning[0].upper()}{warning[1:]}.**")
    return "\n\n".join(rows) + "\n"


COLUMNS: dict[str, Callable[[Divergence], str]] = {
    "KL divergence, mean": lambda found: f"{found.kl:.5f} nats",
    "KL divergence, 99th percentile": lambda found: f"{found.kl_99:.5f} nats",
    "top token differs": lambda found: f"{found.flips:.2%}",
    "perplexity": lambda found: f"{found.perplexity_after:.3f}",
}
