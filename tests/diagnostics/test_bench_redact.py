"""`bench redact`: one column a side, and a peer that is not there says so."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.bench_redact import redact_table
from mlx_gptoss.diagnostics.bench.redact import RedactBench, RedactColumn, RedactWork
from tests.support.privacy_filters import write_filter


def test_a_classifier_is_measured(tmp_path: Path) -> None:
    folder = write_filter(tmp_path, tokenizer=True)
    given = ["bench", "redact", "-m", str(folder), "--against", "mlx-embeddings"]
    given += ["--texts", "2", "--tokens", "16", "--rounds", "1", "--json"]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    ours, peer = found["columns"]
    assert ours["tokens_per_second"] > 0 and ours["same_labels"] == 1.0
    if find_spec("mlx_embeddings") is None:
        assert "No module named 'mlx_embeddings'" in peer["failure"]
        assert found["ratios"] == {}


def test_a_ratio_above_1_is_ours() -> None:
    columns = (RedactColumn("a", 30.0, 1.0), RedactColumn("b", 20.0, 0.5))
    found = RedactBench("m", "here", RedactWork(), columns)
    assert found.ratios == {"b": 1.5}
    lines = redact_table(found).splitlines()
    assert lines[2].split() == ["b", "20", "tok/s", "1.50x", "50.0%"]
    gone = RedactColumn("c", failure="it is not here")
    assert redact_table(replace(found, columns=(*columns, gone))).endswith("not here")
