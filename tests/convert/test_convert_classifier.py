"""Token classifiers converted: the same labels, and quantized as the recipe says."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint import load_classifier, open_checkpoint
from mlx_gptoss.cli import cli
from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.recipe import open_recipe
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.outputs import plan_output
from tests.support.privacy_filters import write_filter

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
}


def logits(folder: Path) -> np.ndarray:
    model = load_classifier(open_checkpoint(folder, classifier=True), dtype=mx.float32)
    ids = np.random.default_rng(0).integers(0, 301, (1, 50))
    return np.array(model(mx.array(ids)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_filter(tmp_path_factory.mktemp("filter"), seed=8, **SIZES)


@pytest.mark.parametrize(("recipe", "close"), [("lossless", 1e-5), ("q8", 0.1)])
def test_a_recipe_keeps_the_labels(
    recipe: str, close: float, source: Path, tmp_path: Path
) -> None:
    plan = plan_output(open_source(source, classifier=None), open_recipe(recipe))
    made = tmp_path / "made"
    convert(plan, made)
    before, after = logits(source), logits(made)
    # The mean: in 8 bits a token now and then takes another expert.
    assert np.abs(after - before).mean() < close
    assert (after.argmax(-1) == before.argmax(-1)).mean() > 0.9
    report = verify(made, source)
    assert not report.faults
    written = json.loads((made / "config.json").read_text())
    assert written["model_type"] == "openai_privacy_filter"
    assert len(written["id2label"]) == 33 and "layer_types" not in written
    names = open_checkpoint(made, classifier=True).structure.quantization
    assert ("model.layers.0.mlp.experts.gate_proj" in names) == (recipe == "q8")
    assert "score" not in names and "model.layers.0.mlp.router" not in names
    assert "redact -m" in (made / "README.md").read_text()
    if recipe == "q8":  # what is quantized already stays as it is
        again = plan_output(open_source(made, classifier=None), open_recipe(recipe))
        convert(again, tmp_path / "again")
        np.testing.assert_array_equal(logits(tmp_path / "again"), after)


def test_what_is_for_language_models_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="leave out `--to`"):
        plan_output(open_source(source, classifier=None), open_recipe("q8"), to="gguf")
    given = ["convert", str(source), str(tmp_path / "x"), "--expert-bits", "3"]
    found = CliRunner().invoke(cli, given)
    assert found.exit_code == 2 and "is for language models" in found.stderr
    found = CliRunner().invoke(cli, ["plan", str(source), "--json"])
    facts = json.loads(found.stdout)
    assert facts["kind"] == "token classifier" and facts["fits"]
    assert facts["bytes_by_part"]["lm_head"] == 33 * 65 * 4
    found = CliRunner().invoke(cli, ["plan", str(source)])
    assert found.exit_code == 0 and "It fits" in found.stdout
    found = CliRunner().invoke(cli, ["plan", str(source), "--context", "9"])
    assert found.exit_code == 2 and "--context is for language models" in found.stderr
