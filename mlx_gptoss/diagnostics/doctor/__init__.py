"""Diagnose this machine: facts about it, and problems with advice.

facts.py      collects facts
findings.py   derives problems from facts, so that each can be tested without having it
selftest.py   runs the model and the assumptions it depends on

Downloads and changes nothing.
"""

from dataclasses import asdict, dataclass
from typing import Any

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.diagnostics.doctor.facts import Facts, collect_facts, describe_machine
from mlx_gptoss.diagnostics.doctor.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    diagnose,
)

__all__ = [
    "ERROR",
    "NOTE",
    "WARNING",
    "Examination",
    "Facts",
    "Finding",
    "describe_machine",
    "diagnose",
    "examine",
]


@dataclass(frozen=True)
class Examination:
    """The facts about a machine and the findings derived from them."""

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return all(finding.level != ERROR for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        for model in found["facts"]["models"]:
            model["path"] = str(model["path"])
        return found | {"healthy": self.healthy}


def examine(hub: Hub | None = None) -> Examination:
    """Examine this machine and the models of `hub` on it."""
    facts = collect_facts(hub or Hub())
    return Examination(facts, tuple(diagnose(facts)))
