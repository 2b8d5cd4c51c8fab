import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.cli import cli
from mlx_gptoss_convert.measure.calibrate import (
    calibrate,
    calibrate_folder,
    save_calibration,
)
from mlx_gptoss_convert.measure.kl import measure_divergence
from mlx_gptoss_convert.measure.texts import fully_scored
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import KINDS, parse_recipe
from mlx_gptoss_convert.plan.sizing import loss_table
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.gguf_conversions import to_gguf, write_tokenizer
from tests.support.layout_writers import write_hf
from tests.support.packed_goldens import FOLDER

CONFIG = hf_config(num_hidden_layers=2, intermediate_size=128)
PASSAGES = [
    fully_scored(np.random.default_rng(7).integers(0, 301, length).tolist())
    for length in (12, 31)
]
FLOAT32_NOISE = 2e-3  # relative, of a KL that is itself about 1e-4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_hf(tmp_path / "source", CONFIG, random_tensors(CONFIG, seed=3))
    return tmp_path / "source"


def test_every_kind_costs_what_converting_it_alone_does(
    tmp_path: Path, source: Path
) -> None:
    checkpoint = open_checkpoint(source)
    table = calibrate(checkpoint, PASSAGES, bits=(4,))
    converted = {}
    for kind in KINDS:
        plan = make_plan(checkpoint, parse_recipe({kind: 4}, kind))
        convert(plan, tmp_path / kind)
        found = measure_divergence(
            checkpoint, open_checkpoint(tmp_path / kind), PASSAGES
        )
        converted[kind] = {"4": found.kl}
    assert {kind: row["4"] for kind, row in table.items()} == pytest.approx(
        {kind: row["4"] for kind, row in converted.items()}, rel=FLOAT32_NOISE
    )


def test_fewer_bits_cost_more(source: Path) -> None:
    table = calibrate(open_checkpoint(source), PASSAGES, bits=(4, 8))
    assert all(row["4"] > 10 * row["8"] > 0 for row in table.values())


def test_a_saved_calibration_is_read_back(tmp_path: Path) -> None:
    table = {kind: {"4": 0.5, "8": 0.25} for kind in KINDS}
    save_calibration(table, "a text", tmp_path / "table.json")
    read = loss_table(tmp_path / "table.json")
    expected = dict.fromkeys(KINDS, (0.5, 0.25))
    assert {kind: (row[4], row[8]) for kind, row in read.items()} == expected


def test_verify_calibrates(tmp_path: Path, source: Path) -> None:
    path, text = tmp_path / "table.json", tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. ")
    write_tokenizer(source / "tokenizer.json")
    result = CliRunner().invoke(
        cli, ["verify", str(source), "--calibrate", str(path), "--text", str(text)]
    )
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert written["text"] == "text.txt"
    assert set(written["kl"]) == set(KINDS)


@pytest.mark.parametrize("form", ["bitsandbytes", "modelopt", "compressed"])
def test_packed_weights_of_other_tools_are_calibrated(form: str) -> None:
    texts = [fully_scored(np.random.default_rng(7).integers(0, 64, 16).tolist())]
    table = calibrate(open_source(FOLDER / form).checkpoint, texts, bits=(4,))
    assert all(0 < row["4"] < 0.5 for row in table.values())


def test_a_gguf_is_calibrated_with_its_own_tokenizer(
    tmp_path: Path, source: Path
) -> None:
    path, text = tmp_path / "table.json", tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. ")
    write_tokenizer(source / "tokenizer.json")
    ggufs = to_gguf(source, tmp_path / "gguf") / FILE
    tables = []
    for folder in (ggufs, source):
        calibrate_folder(folder, path, text=text)
        tables.append(json.loads(path.read_text())["kl"])
    for kind in KINDS:
        assert tables[0][kind] == pytest.approx(tables[1][kind], rel=FLOAT32_NOISE)
