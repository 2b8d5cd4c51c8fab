"""The report of a verification: faults, equal bytes, errors by kind of tensor.

Knows numbers, and the file the report is saved in.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.files import write

REPORT = "report.json"


@dataclass
class ErrorStats:
    """Statistics of the differences between two arrays, accumulated over pieces."""

    values: int = 0
    largest: float = 0.0
    squares: float = 0.0  # of the differences
    before: float = 0.0  # sum of squares
    after: float = 0.0
    product: float = 0.0

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        before, after = (x.reshape(-1).astype(np.float64) for x in (before, after))
        difference = after - before
        self.values += difference.size
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0)))
        self.squares += float(difference @ difference)
        self.before += float(before @ before)
        self.after += float(after @ after)
        self.product += float(before @ after)

    def merge(self, other: "ErrorStats") -> None:
        """Add the sums of another instance."""
        self.values += other.values
        self.largest = max(self.largest, other.largest)
        self.squares += other.squares
        self.before += other.before
        self.after += other.after
        self.product += other.product

    def summary(self) -> dict[str, float]:
        """Return the largest error, rms, rms relative to the source's, and cosine."""
        count = max(self.values, 1)
        norm = (self.before * self.after) ** 0.5
        return {
            "values": self.values,
            "max": self.largest,
            "rms": (self.squares / count) ** 0.5,
            "relative_rms": (self.squares / self.before) ** 0.5 if self.before else 0.0,
            "cosine": self.product / norm if norm else 1.0,
        }


@dataclass
class VerificationReport:
    """The findings of a verification; `faults` is empty if all is well."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # remarks that are not faults
    digests: int = 0  # tensors with the digest of the journal
    expert_bytes: int = 0  # equal to the source's
    errors: dict[str, ErrorStats] = field(default_factory=dict)
    same_experts: set[str] = field(default_factory=set)  # paths, biases included
    divergence: dict[str, Any] | None = None  # of the predictions, if measured

    @property
    def is_sound(self) -> bool:
        return not self.faults

    def error(self, kind: str) -> ErrorStats:
        return self.errors.setdefault(kind, ErrorStats())

    def as_dict(self) -> dict[str, Any]:
        return {
            "faults": self.faults,
            "notes": self.notes,
            "digests": self.digests,
            "expert_bytes": self.expert_bytes,
            "errors": {kind: error.summary() for kind, error in self.errors.items()},
            "divergence": self.divergence,
        }


def save_report(report: VerificationReport, folder: Path) -> None:
    """Write the report beside the weights."""
    text = json.dumps(report.as_dict(), indent=2) + "\n"
    write(folder / REPORT, text, private=False)
