"""bitsandbytes, modelopt and compressed-tensors themselves, as judges, by hand.

They write other models than the goldens, and the demo; `tests/support/packed_goldens`
says what must be installed.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.format.mxfp4 import pack, unpack
from tests.convert.test_convert import raw_tensors
from tests.support.demo_checkpoint import ANSWER, ask, demo_tensors, with_tokenizer
from tests.support.packed_digests import assert_decodes_as_the_library_did
from tests.support.packed_goldens import DEMO
from tests.support.packed_writers import CASTS, FORMS, missing_packages

ROOT = Path(__file__).parents[2]
SEEDS = ("5", "6")

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what writes the demo, or the random model of a seed, in every form."""
    missing = missing_packages()
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not installed: see tests/support/packed_goldens.py"
        )
    folder = tmp_path_factory.mktemp("packed")

    def write(what: str) -> Path:
        if not (folder / what).exists():
            command = [sys.executable, "-m", "tests.support.packed_goldens"]
            command += [str(folder / what), what]
            one = {**os.environ, "OMP_NUM_THREADS": "1"}  # more wait for each other
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=one)
        return folder / what

    return write


@pytest.mark.parametrize("form", [*FORMS, *CASTS])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_weight_decodes_as_the_library_does(
    written: Callable[[str], Path], form: str, seed: str
) -> None:
    assert_decodes_as_the_library_did(written(seed) / form)


@pytest.mark.parametrize("form", [*FORMS, *CASTS])
def test_the_demo_answers_out_of_every_form(
    written: Callable[[str], Path], form: str, tmp_path: Path
) -> None:
    folder, made = with_tokenizer(written(DEMO) / form), tmp_path / "made"
    assert_decodes_as_the_library_did(folder)
    for command in (
        ["convert", str(folder), str(made)],
        ["verify", str(made), "--against", str(folder)],
    ):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.stderr
    assert ANSWER in ask(made)


@pytest.mark.parametrize("form", CASTS)
def test_a_cast_of_the_demo_comes_back_bit_by_bit(
    written: Callable[[str], Path], form: str, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    command = ["convert", str(written(DEMO) / form), str(made), "--recipe", "lossless"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.stderr
    found = raw_tensors(made)
    for name, stored in demo_tensors().items():
        expected = stored
        if name.endswith("_blocks"):
            nibbles = unpack(stored)  # both libraries drop the sign of zeros
            expected = pack(np.where(nibbles == 8, 0, nibbles).astype(np.uint8))
        if name.endswith(("_blocks", "_scales")):
            assert found[name] == expected.tobytes(), name
