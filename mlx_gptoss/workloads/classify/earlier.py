"""Count the verdicts in a file that was written before, also by an interrupted run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_gptoss.workloads.batch.inputs import open_input
from mlx_gptoss.workloads.batch.journal import journal_path
from mlx_gptoss.workloads.classify.inputs import TextRows
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.report import Tally, right_label
from mlx_gptoss.workloads.classify.verdict import Verdict

LEAST = 1e-300  # a probability, so that its logarithm is finite


def tally_output(
    output: Path, texts: TextRows, policies: Sequence[Policy], expected: str
) -> list[Tally]:
    """Return a tally for each policy, of a file of verdicts that is whole.

    Raises BatchError for a file that cannot be read.
    """
    tallies = [Tally(policy) for policy in policies]
    if not output.exists() or not journal_path(output).exists():
        return tallies
    for row in open_input(output).rows():
        for tally in tallies:
            prefix = f"{tally.policy.name}." if len(policies) > 1 else ""
            verdict = _verdict(row.fields, prefix, tally.policy)
            if row.problem is None and verdict is not None:
                tally.add(
                    right=right_label(row.fields, expected, tally.policy),
                    verdict=verdict,
                    where=row.where,
                    text=texts.text_of(row),
                )
    return tallies


def _verdict(fields: Mapping[str, Any], prefix: str, policy: Policy) -> Verdict | None:
    """Return the verdict of a line; None if it has none."""

    def found(name: str) -> Any:
        own = f"{prefix}{name}"
        return fields.get(f"{own}_verdict", fields.get(own))

    label, sure, scores = found("label"), found("confidence"), found("scores")
    if label not in policy.labels:
        return None
    if not isinstance(scores, Mapping):
        scores = {} if sure in (None, "") else {label: float(sure)}
    complete = set(scores) == set(policy.labels)
    logprobs = {one: math.log(max(p, LEAST)) for one, p in scores.items()}
    return Verdict(
        policy.name,
        label,
        label in policy.flagged,
        scores=scores,
        logprobs=logprobs if complete else {},
    )
