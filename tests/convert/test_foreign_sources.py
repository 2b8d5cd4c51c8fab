"""Random checkpoints in the forms of other tools: whole ones, measured and by hand."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.random_checkpoint import SHAPES, make_config
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import EXPERTS, PACKED, matrices
from mlx_gptoss_convert.measure.foreign_sources import FORMS, write_source
from mlx_gptoss_convert.measure.speed import (
    COPY,
    DEMO_TOKENIZER,
    LOSSLESS,
    Q8,
    run_engine,
)
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.estimates import MAX_MEMORY
from mlx_gptoss_convert.read.checkpoint import open_source
from tests.support.gguf_conversions import to_mlx

SMALL = make_config(replace(SHAPES[0], hidden_size=256, num_attention_heads=4), 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_a_checkpoint_that_is_converted(form: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", SMALL, form)
    opened = open_source(source, tokenizer=DEMO_TOKENIZER)
    assert opened.checkpoint.config.num_local_experts == SMALL["num_local_experts"]
    if "gguf" not in form:
        made = to_mlx(source, tmp_path / "made")
        assert verify(made, source).faults == []


def test_an_engine_says_what_it_took_and_what_was_foreseen(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", SMALL, "gguf")
    (source / "tokenizer.json").write_bytes(DEMO_TOKENIZER.read_bytes())
    found = run_engine(Q8, source, tmp_path / "made")
    assert 0 < found.grown < found.bound < MAX_MEMORY
    assert found.nbytes > 0


@pytest.mark.soak
def test_bench_convert_measures_another_form_against_a_copy(tmp_path: Path) -> None:
    words = "bench convert --size 1MB --rounds 1 --source gguf --json --folder"
    result = CliRunner().invoke(cli, [*words.split(), str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["engine"] for row in rows] == [COPY, LOSSLESS, Q8]
    assert all(0 < row["grown"] < row["bound"] < MAX_MEMORY for row in rows[1:])
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
def test_a_layer_of_the_20b_stays_within_what_was_foreseen(
    form: str, tmp_path: Path
) -> None:
    """32 experts of 2,880 by 2,880; `pytest -rP` shows the rate of decoded bfloat16."""
    raw = make_config(replace(SHAPES[-1], vocab_size=1024), 1)
    source = write_source(tmp_path / "source", raw, form)
    (tmp_path / "source" / "tokenizer.json").write_bytes(DEMO_TOKENIZER.read_bytes())
    module = [sys.executable, "-m", "mlx_gptoss_convert.measure.speed"]
    command = [*module, Q8, str(source), str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["grown"] < found["bound"] < MAX_MEMORY
    experts = sum(
        2 * matrix.shape[0] * matrix.shape[1] * matrix.shape[2]
        for matrix in matrices(ModelConfig.from_dict(raw), PACKED)
        if matrix.part == EXPERTS
    )
    print(
        f"{form}: {experts / found['seconds'] / 1e6:.0f} MB/s of bfloat16 experts, "
        f"{found['grown'] / 1e6:.0f} MB of at most {found['bound'] / 1e6:.0f} MB"
    )
