"""`doctor --self-test` on this machine, and with each fallback forced."""

import json

import mlx.core as mx
import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.doctor import selftest
from mlx_gptoss.diagnostics.doctor.selftest import FALLBACKS, Check, SelfTest


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", "--self-test", *arguments])


@pytest.mark.parametrize("force", [(), *((name,) for name in FALLBACKS)])
def test_this_machine_passes_with_every_fallback(force: tuple[str, ...]) -> None:
    arguments = [word for name in force for word in ("--force", name)]
    result = run("--json", *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    details = {check["name"]: check["detail"] for check in found["checks"]}
    assert found["passed"]
    assert list(details) == [
        "products",
        "parity",
        "adoption",
        "pool writes",
        "storages",
        "wired limit",
        "speed",
    ]
    if "pool-writes" in force:
        assert details["pool writes"] == "slots are filled by assignment"
    if "adoption" in force or not mx.metal.is_available():
        assert details["adoption"].startswith("not shared")


def test_the_report_can_be_pasted() -> None:
    """The text report of given results."""
    found = SelfTest("M4", (), (Check("speed", True, "fast", 0.1),))
    assert found.passed
    failed = SelfTest("M4", (), (*found.checks, Check("parity", False, "far", 0.1)))
    assert not failed.passed
    assert failed.as_json()["passed"] is False


def test_a_device_that_does_not_see_writes_gets_assignments() -> None:
    found = selftest.check_pools(forced=False, seen=lambda: False)
    assert found == (True, "slots are filled by assignment")


def test_force_alone_is_wrong_usage() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--force", "adoption"])
    assert result.exit_code == 2
