"""What merging loses is measured, printed and in the card; never silently the base."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.checkpoint.adapters import open_adapter, read_adapter
from mlx_gptoss.cli import cli
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters import AdapterStack
from mlx_gptoss_convert.measure.merge import MergeLoss, measure_merge
from mlx_gptoss_convert.measure.texts import EvaluationText, fully_scored
from mlx_gptoss_convert.merge.merge import merge
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.outputs import plan_output
from tests.convert.test_convert_kl import by_hand, log_softmax
from tests.support.adapter_files import random_loras, write_peft
from tests.support.conversions import Stopped, contents, stop_after
from tests.support.gguf_conversions import write_tokenizer
from tests.support.layout_writers import WRITERS
from tests.support.merging import (
    ATTENTION,
    CONFIG,
    EXPERTS,
    PATHS,
    RAW,
    TENSORS,
    adapter_folder,
    loras,
    prepared,
)
from tests.support.packed_goldens import FOLDER

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "mlx_gptoss" / "demo"
DOWN_PROJ = "mlp.experts.down_proj"
FLOAT32_NOISE = 1e-4  # relative; the order of sums differs


def texts(*lengths: int) -> list[EvaluationText]:
    draw = np.random.default_rng(4)
    size = CONFIG.vocab_size
    return [fully_scored(draw.integers(0, size, n).tolist()) for n in sorted(lengths)]


def measured(tmp_path: Path, paths: list[str], size: float, **options) -> MergeLoss:
    """Merge random updates of this size into a tiny model, and measure the loss."""
    WRITERS["hf"](tmp_path / "source", RAW, TENSORS)
    adapter = adapter_folder(tmp_path / "adapter", loras(paths, size=size))
    plan = prepared(tmp_path / "source", adapter, **options)
    merge(plan, tmp_path / "dst")
    return measure_merge(plan.merge, tmp_path / "dst", texts(9, 30, 17))


def adapted(folder: Path, adapter: Path, scored: list[EvaluationText]) -> np.ndarray:
    """Return the log-probabilities of a whole model with its adapter: (N, V)."""
    model = load_model(open_checkpoint(folder), dtype=mx.float32)
    model.set_adapters(AdapterStack(CONFIG, [read_adapter(adapter, CONFIG, name="x")]))
    rows = []
    for text in scored:
        ids = mx.array(text.ids)[None]
        found = model.logits(model.hidden(ids, adapters=[1]), adapters=[1])
        values = np.array(found[0]).astype(np.float64)[text.scored]
        top = values.max(axis=1, keepdims=True)
        rows.append(values - top - np.log(np.exp(values - top).sum(1, keepdims=True)))
    return np.concatenate(rows)


def test_layer_by_layer_equals_the_whole_models_with_the_adapter(
    tmp_path: Path,
) -> None:
    loss = measured(tmp_path, PATHS, 0.05, recipe="q4")
    scored = texts(9, 30, 17)
    before = adapted(tmp_path / "source", tmp_path / "adapter", scored)
    targets = np.concatenate([text.ids[1:] for text in scored])
    for found, folder in ((loss.merged, "dst"), (loss.base, "source")):
        after = log_softmax(tmp_path / folder, scored)
        expected = by_hand(before, after, targets)
        assert found.as_dict() == pytest.approx(expected.as_dict(), rel=FLOAT32_NOISE)
        assert found.kl > 1e-3


def test_an_update_that_mxfp4_cannot_hold_is_said_to_be_lost(tmp_path: Path) -> None:
    loss = measured(tmp_path, EXPERTS, 1e-4)
    assert loss.experts is not None
    assert loss.experts.changed_share < 0.01
    assert loss.experts.relative_error == pytest.approx(1, abs=0.05)
    assert 0.8 < loss.lost < 1.2
    warning = loss.warning()
    assert warning is not None
    assert warning.endswith(
        "of what the adapter does to predictions: `--experts dense` keeps the updates "
        "of experts"
    )


def test_dense_experts_keep_the_same_update(tmp_path: Path) -> None:
    loss = measured(tmp_path, EXPERTS, 0.01, dense_experts=True)
    assert loss.experts is not None
    assert loss.experts.relative_error < 0.2  # of bfloat16
    assert loss.lost < 0.05
    assert loss.warning() is None


def test_attention_loses_no_more_than_its_floats_do(tmp_path: Path) -> None:
    loss = measured(tmp_path, ATTENTION, 0.05)
    assert (loss.experts, loss.warning()) == (None, None)
    assert loss.lost < 0.01


def test_a_recipe_that_rounds_more_than_the_adapter_changes_is_named(
    tmp_path: Path,
) -> None:
    loss = measured(tmp_path, ATTENTION, 1e-4, recipe="q4")
    warning = loss.warning()
    assert warning is not None
    assert warning.startswith("rounding the weights moved predictions as much as the")
    assert warning.endswith("`--recipe lossless` rounds least")


def test_a_gguf_loses_the_same_as_what_it_was_made_from(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    WRITERS["hf"](folder, RAW, TENSORS)
    write_tokenizer(folder / "tokenizer.json")
    convert(
        plan_output(open_source(folder), RECIPES["lossless"], to="gguf"),
        tmp_path / "gguf",
    )
    (tmp_path / "text").write_text("a b abc d " * 9)
    adapter = adapter_folder(tmp_path / "adapter", loras(PATHS, size=0.05))
    options = {"measures": True, "text": tmp_path / "text", "recipe": "q4"}
    one, other = (
        merge(prepared(source, adapter, **options), tmp_path / f"from-{source.name}")
        for source in (folder, tmp_path / "gguf")
    )
    assert one is not None
    assert other is not None
    assert one.merged.kl > 1e-3
    for found, expected in ((other.merged, one.merged), (other.base, one.base)):
        assert found.as_dict() == pytest.approx(expected.as_dict(), rel=FLOAT32_NOISE)
    assert other.experts == one.experts


@pytest.mark.parametrize("form", ["bitsandbytes", "modelopt"])
def test_a_merge_into_a_packed_form_is_measured(form: str, tmp_path: Path) -> None:
    source = open_source(FOLDER / form)
    config = source.checkpoint.config
    paths = [f"model.layers.0.{x}" for x in ("self_attn.q_proj", DOWN_PROJ)]
    adapter = write_peft(tmp_path / "adapter", random_loras(config, paths, size=0.05))
    plan = prepared(FOLDER / form, adapter, dense_experts=True)
    merge(plan, tmp_path / "dst")
    ids = np.random.default_rng(4).integers(0, config.vocab_size, 20).tolist()
    loss = measure_merge(plan.merge, tmp_path / "dst", [fully_scored(ids)])
    assert loss.base.kl > 1e-4
    assert loss.lost < 0.5


def test_a_merge_interrupted_while_it_is_measured_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    WRITERS["hf"](folder, RAW, TENSORS)
    write_tokenizer(folder / "tokenizer.json")
    (tmp_path / "text").write_text("a b abc d " * 9)
    adapter = adapter_folder(tmp_path / "adapter", loras(ATTENTION))
    options = {"measures": True, "text": tmp_path / "text"}
    calls: list[str] = []
    merge(
        prepared(folder, adapter, **options),
        tmp_path / "whole",
        progress=lambda done, total, what: calls.append(what),
    )
    assert calls[-1] == "layer 1"
    with pytest.raises(Stopped):
        plan = prepared(folder, adapter, **options)
        merge(plan, tmp_path / "dst", progress=stop_after(len(calls) - 1))
    assert not (tmp_path / "dst").exists()
    loss = merge(prepared(folder, adapter, **options), tmp_path / "dst", resume=True)
    assert loss is not None
    assert contents(tmp_path / "dst") == contents(tmp_path / "whole")


# The command, on the demo model.


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["merge", *map(str, arguments)])


@pytest.fixture
def demo_adapter(tmp_path: Path) -> Path:
    config = ModelConfig.from_dict(json.loads((DEMO / "config.json").read_text()))
    paths = ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.experts.down_proj"]
    return write_peft(tmp_path / "adapter", random_loras(config, paths, size=0.02))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A short text: the bundled conversations take a while."""
    (tmp_path / "text").write_text("What is 417 + 285? The sum is 702. " * 3)
    return tmp_path / "text"


def test_merge_prints_what_it_lost_and_writes_it_into_the_card(
    demo_adapter: Path, text: Path, tmp_path: Path
) -> None:
    result = run(DEMO, f"{demo_adapter}:0.5", tmp_path / "dst", "--text", text)
    assert result.exit_code == 0, result.output
    last = result.stdout.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["merged", "unadapted", "experts"]
    card = (tmp_path / "dst" / "README.md").read_text()
    assert "## What merging lost" in card
    assert "with the scale 0.5" in card
    assert "| KL divergence, mean | " in card
    assert not (tmp_path / "dst.partial").exists()
    assert not (tmp_path / "dst" / "journal.jsonl").exists()


@pytest.mark.soak
def test_the_loss_is_measured_on_the_bundled_conversations(
    demo_adapter: Path, tmp_path: Path
) -> None:
    result = run(DEMO, demo_adapter, tmp_path / "dst")
    assert result.exit_code == 0, result.output
    assert "positions of the bundled Harmony conversations:" in result.stdout


def test_json_has_the_loss(demo_adapter: Path, text: Path, tmp_path: Path) -> None:
    result = run("demo", demo_adapter, tmp_path / "dst", "--json", "--text", text)
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["done", "loss"]
    assert set(events[-1]) == {"event", "text", "merged", "base", "lost", "experts"}


def test_without_kl_nothing_is_run(demo_adapter: Path, tmp_path: Path) -> None:
    result = run(DEMO, demo_adapter, tmp_path / "dst", "--no-kl")
    assert (result.exit_code, "KL" in result.output) == (0, False)
    card = (tmp_path / "dst" / "README.md").read_text()
    assert card.endswith("## What merging lost\n\nIt was not measured.\n")


def test_a_dry_run_lists_what_is_merged(demo_adapter: Path, tmp_path: Path) -> None:
    result = run(DEMO, demo_adapter, tmp_path / "dst", "--dry-run")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if "merge, " in line]
    assert any("merge, encode to mxfp4" in line for line in lines)
    assert any("merge, quantize to 8 bits" in line for line in lines)
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("layout", ["peft", "mlx-lm"])
def test_an_adapter_alone_is_written_in_another_layout(
    layout: str, demo_adapter: Path, tmp_path: Path
) -> None:
    words = (DEMO, f"{demo_adapter}:0.5", tmp_path / "dst", "--to", layout)
    dry = run(*words, "--dry-run")
    assert "would be in" in dry.stdout
    assert not (tmp_path / "dst").exists()
    result = run(*words)
    assert result.exit_code == 0, result.output
    config = open_checkpoint(DEMO).config
    before = open_adapter(demo_adapter, config, scale=0.5)
    after = open_adapter(tmp_path / "dst", config)
    assert (after.layout, after.paths) == (layout, before.paths)
    for path, update in before.updates():
        other = after.read(path)
        np.testing.assert_array_equal(other.a @ other.b, update.a @ update.b)
    assert before.digest in (tmp_path / "dst" / "README.md").read_text()


def test_a_model_that_does_not_speak_harmony_needs_a_text(tmp_path: Path) -> None:
    WRITERS["hf"](tmp_path / "source", RAW, TENSORS)
    adapter = adapter_folder(tmp_path / "adapter", loras(ATTENTION))
    result = run(tmp_path / "source", adapter, tmp_path / "dst")
    assert result.exit_code == 1
    assert "or do not measure what merging loses, with `--no-kl`" in result.stderr
    assert not list(tmp_path.glob("dst*"))


def test_a_model_in_the_place_of_the_adapter_is_named(tmp_path: Path) -> None:
    result = run(DEMO, DEMO, tmp_path / "dst")
    assert result.exit_code == 1
    assert "is a model, not an adapter" in result.stderr


@pytest.mark.parametrize("adapter", ["./nowhere", "./nowhere:0.5", "", "a:b"])
def test_an_adapter_that_is_not_there_is_named(adapter: str, tmp_path: Path) -> None:
    result = run(DEMO, adapter, tmp_path / "dst")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith("Error: ")
    assert not (tmp_path / "dst").exists()


def test_an_adapter_on_the_hub_is_not_fetched_offline(tmp_path: Path) -> None:
    result = run(DEMO, "owner/adapter-of-tests", tmp_path / "dst", "--offline")
    assert result.exit_code == 1
    assert "`owner/adapter-of-tests` is not on this machine" in result.stderr
