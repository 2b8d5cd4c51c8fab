"""Calibrate probabilities with labelled texts: one temperature for a policy and model.

    calibration = fit(pairs, policy, model_digest)      # [(logprobs, right label), ...]
    save(calibration, Path("spam.calibration.json"))

Temperature scaling (Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
Networks", ICML 2017, section 4.2): log-probabilities are divided by the T that makes
the right labels most likely. It changes how sure verdicts are, never which label they
have.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mlx_gptoss import files
from mlx_gptoss.errors import PolicyError
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.verdict import probabilities

FEWEST = 10  # labelled texts
LOWEST, HIGHEST = 0.05, 20.0  # temperatures; texts that are all right know no bound
STEPS = 60  # of the golden section search: to a millionth of the range
BINS = 10  # of the expected calibration error
LEAST = 1e-12  # a probability, so that its logarithm is finite


@dataclass(frozen=True)
class Calibration:
    """The temperature for a policy on a model.

    `policy` and `model` are their digests (hex), `texts` how many it was fitted to,
    `error_before` and `error_after` the expected calibration errors, 0 to 1.
    """

    temperature: float
    policy: str
    model: str
    texts: int
    error_before: float
    error_after: float


Pairs = Sequence[tuple[Mapping[str, float], str]]


def fit(pairs: Pairs, policy: Policy, model: str) -> Calibration:
    """Fit to log-probabilities by label and the right labels. Raises PolicyError."""
    if len(pairs) < FEWEST:
        raise PolicyError(
            f"{len(pairs)} labelled texts are too few to calibrate the policy "
            f"`{policy.name}`: label {FEWEST} or more"
        )
    low, high = math.log(LOWEST), math.log(HIGHEST)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _loss(pairs, math.exp(left)) <= _loss(pairs, math.exp(right)):
            high = right
        else:
            low = left
    temperature = math.exp((low + high) / 2)
    return Calibration(
        temperature,
        policy.digest(),
        model,
        len(pairs),
        expected_error(pairs, 1.0),
        expected_error(pairs, temperature),
    )


def expected_error(pairs: Pairs, temperature: float) -> float:
    """Return the expected calibration error, over `BINS` bins of equal width."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for logprobs, right in pairs:
        found = probabilities(logprobs, temperature)
        label = max(found, key=found.__getitem__)
        at = min(int(found[label] * BINS), BINS - 1)
        bins.setdefault(at, []).append((found[label], label == right))
    gaps = (
        abs(sum(sure for sure, _ in one) - sum(hit for _, hit in one))
        for one in bins.values()
    )
    return sum(gaps) / len(pairs)


def save(calibration: Calibration, path: Path) -> None:
    """Write a calibration. Raises StorageError."""
    files.write(path, json.dumps(asdict(calibration), indent=2) + "\n")


def load_calibration(path: Path, policy: Policy, model: str) -> Calibration:
    """Read a calibration. Raises PolicyError if it is of another policy or model."""
    try:
        found = Calibration(**json.loads(path.read_text(encoding="utf-8")))
        finite = LOWEST <= float(found.temperature) <= HIGHEST
    except (OSError, ValueError, TypeError) as error:
        raise PolicyError(f"`{path}` is no calibration: {error}") from error
    if not finite:
        raise PolicyError(f"`{path}` has a temperature out of {LOWEST} to {HIGHEST}")
    for what, mine in (("policy", policy.digest()), ("model", model)):
        if getattr(found, what) != mine:
            raise PolicyError(
                f"`{path}` was fitted to another {what}: calibrate again with "
                "--calibrate"
            )
    return found


def _loss(pairs: Pairs, temperature: float) -> float:
    """Return the negative log-likelihood of the right labels."""
    return -sum(
        math.log(max(probabilities(logprobs, temperature)[right], LEAST))
        for logprobs, right in pairs
    )
