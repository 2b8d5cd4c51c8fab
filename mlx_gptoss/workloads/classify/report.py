"""Verdicts on labelled texts in figures: confusion matrix, precision, recall.

tally = Tally(policy)
tally.add(right="1", verdict=verdict, where="line 7", text="...")
print(tally.table())
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.verdict import Verdict

SHOWN_WRONG = 20
EXCERPT = 70  # characters


@dataclass(frozen=True)
class WrongVerdict:
    """A text whose verdict is not the right one."""

    where: str
    text: str
    right: str
    label: str
    confidence: float | None


@dataclass
class Tally:
    """Counts of right labels and of verdicts, for one policy.

    `counts` has the number of texts by (right label, label of the verdict); texts
    without a known right label are only counted as `unlabelled`, those without a
    verdict as `failed`.
    """

    policy: Policy
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[WrongVerdict] = field(default_factory=list)
    pairs: list[tuple[dict[str, float], str]] = field(default_factory=list)
    unlabelled: int = 0
    failed: int = 0

    def add(
        self, *, right: str | None, verdict: Verdict, where: str, text: str
    ) -> None:
        """Count a verdict; `right` is the label that the text ought to have."""
        if right not in self.policy.labels:
            self.unlabelled += 1
            return
        self.counts[right, verdict.label] += 1
        if verdict.logprobs:
            self.pairs.append((dict(verdict.logprobs), right))
        if verdict.label != right and len(self.wrong) < SHOWN_WRONG:
            shown = " ".join(text.split())
            if len(shown) > EXCERPT:
                shown = shown[: EXCERPT - 1] + "…"
            sure = verdict.confidence
            self.wrong.append(WrongVerdict(where, shown, right, verdict.label, sure))

    @property
    def total(self) -> int:
        """TextRows with a right label and a verdict."""
        return self.counts.total()

    @property
    def accuracy(self) -> float | None:
        """The share of right verdicts; None without any."""
        right = sum(self.counts[label, label] for label in self.policy.labels)
        return right / self.total if self.total else None

    def precision(self, label: str) -> float | None:
        """Of the verdicts with a label, the share that is right; None without any."""
        given = sum(self.counts[right, label] for right in self.policy.labels)
        return self.counts[label, label] / given if given else None

    def recall(self, label: str) -> float | None:
        """Of the texts with a right label, the share found; None without any."""
        texts = sum(self.counts[label, found] for found in self.policy.labels)
        return self.counts[label, label] / texts if texts else None

    def f1(self, label: str) -> float | None:
        """The harmonic mean of precision and recall; None if either is undefined."""
        precision, recall = self.precision(label), self.recall(label)
        if precision is None or recall is None:
            return None
        both = precision + recall
        return 2 * precision * recall / both if both else 0.0

    def as_json(self) -> dict[str, Any]:
        labels = self.policy.labels
        return {
            "policy": self.policy.name,
            "texts": self.total,
            "unlabelled": self.unlabelled,
            "failed": self.failed,
            "accuracy": self.accuracy,
            "confusion": {
                right: {found: self.counts[right, found] for found in labels}
                for right in labels
            },
            "labels": {
                label: {
                    "precision": self.precision(label),
                    "recall": self.recall(label),
                    "f1": self.f1(label),
                }
                for label in labels
            },
            "wrong": [vars(one) for one in self.wrong],
        }

    def table(self) -> str:
        """Return the report as text: rows are right labels, columns verdicts."""
        labels = self.policy.labels
        head = ["right \\ verdict", *labels, "precision", "recall", "F1"]
        rows = [head]
        for right in labels:
            counted = [f"{self.counts[right, found]:,}" for found in labels]
            figures = (self.precision(right), self.recall(right), self.f1(right))
            rows.append([right, *counted, *map(_share, figures)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        wrong = self.total - sum(self.counts[one, one] for one in labels)
        title = f"{self.policy.name}: {self.total:,} labelled texts"
        if self.total:
            title += f", {_share(self.accuracy)} right"
        for count, what in (
            (self.unlabelled, "without one of the labels"),
            (self.failed, "without a verdict"),
        ):
            title += f", {count:,} {what}" if count else ""
        lines = [title, "", *lines]
        if wrong:
            lines += ["", f"{wrong:,} went wrong:"]
            lines += [
                f"  {one.where}: {one.label}"
                + (f" ({one.confidence:.0%})" if one.confidence is not None else "")
                + f", should be {one.right}: {one.text}"
                for one in self.wrong
            ]
            if wrong > len(self.wrong):
                lines.append("  …")
        return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def right_label(fields: Mapping[str, Any], name: str, policy: Policy) -> str | None:
    """Return the label that a row ought to have, of its field `name`; None without.

    Where rows are for several policies, the field `NAME.POLICY` is for one of them, or
    an object in the field has a label for each.
    """
    found = fields.get(f"{name}.{policy.name}", fields.get(name))
    if isinstance(found, Mapping):
        found = found.get(policy.name)
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    return str(found).strip()
