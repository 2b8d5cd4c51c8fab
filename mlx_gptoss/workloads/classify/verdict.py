"""A verdict: the label of a text, how sure it is, and why."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.errors import AnswerFormatError
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.question import LABEL, RATIONALE, RULE

LEAST = 1e-9  # of a probability: a float32 is no finer near 1


@dataclass(frozen=True)
class Verdict:
    """How a policy judges a text.

    label: the label that the model chose.
    flagged: whether it is one of those that the policy flags.
    rule: the rule that decides, None if the model names none.
    scores: the probability of each label, 0 to 1, which sum to 1; empty if unknown.
    rationale: why, if it was asked for.
    reasoning: what the model thought before; not meant for the people who are judged.
    logprobs: the log-probabilities that `scores` come from, before calibration.
    """

    policy: str
    label: str
    flagged: bool
    rule: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    rationale: str | None = None
    reasoning: str = ""
    logprobs: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def confidence(self) -> float | None:
        """The probability of the label; None if it was not computed."""
        return self.scores.get(self.label)

    def as_json(self, *, reasoning: bool = False) -> dict[str, Any]:
        """Return the verdict as an object, with the reasoning if it is asked for."""
        fields: dict[str, Any] = {
            "label": self.label,
            "flagged": self.flagged,
            "rule": self.rule,
            "confidence": self.confidence,
            "scores": dict(self.scores),
        }
        if self.rationale is not None:
            fields["rationale"] = self.rationale
        if reasoning:
            fields["reasoning"] = self.reasoning
        return fields


def read_verdict(text: str, policy: Policy) -> dict[str, Any]:
    """Return label, rule and rationale of an answer. Raises AnswerFormatError."""
    try:
        found = json.loads(text)
        label, rule = found[LABEL], found.get(RULE)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise AnswerFormatError(
            "the verdict is incomplete: allow more tokens, or less effort"
        ) from error
    return {"label": label, "rule": rule, "rationale": found.get(RATIONALE)} | {
        "flagged": label in policy.flagged
    }


def probabilities(
    logprobs: Mapping[str, float], temperature: float = 1.0
) -> dict[str, float]:
    """Return the softmax of log-probabilities divided by a temperature above 0."""
    if not logprobs:
        return {}
    scaled = {one: value / temperature for one, value in logprobs.items()}
    most = max(scaled.values())
    weights = {one: math.exp(value - most) for one, value in scaled.items()}
    total = sum(weights.values())
    return {one: weight / total for one, weight in weights.items()}


def label_logprobs(
    sequences: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]
) -> list[float]:
    """Return the log-probability of each label, given those of its tokens.

    Where a label's tokens begin another's, it is the probability that no other goes
    on: p(label) times one less the probabilities of the tokens that would.
    """
    found = []
    for tokens, own in zip(sequences, logprobs, strict=True):
        longer: dict[int, float] = {}
        for others, theirs in zip(sequences, logprobs, strict=True):
            size = len(tokens)
            if len(others) > size and list(others[:size]) == list(tokens):
                longer[others[size]] = math.exp(theirs[size])
        left = max(1.0 - sum(longer.values()), LEAST)
        found.append(sum(own) + math.log(left))
    return found
