"""`mlx-gptoss tune` and `tune report`, on a tiny model with a tokenizer of bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import pytest
from click.testing import CliRunner, Result
from mlx.utils import tree_unflatten

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.checkpoint.adapters import open_adapter, read_adapter
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.tune.options import trains
from mlx_gptoss.cli.tune.progress import duration, progress_text
from mlx_gptoss.model.adapters.stack import AdapterStack
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.run_log import read_log
from mlx_gptoss.workloads.tune.saved_state import read_state
from mlx_gptoss.workloads.tune.training_run import TuneProgress
from tests.support.adapters import write_random_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import write_tokenizer

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
}
RANKS = {f"model.layers.{n}.self_attn.{x}_proj": 2 for n in (0, 1) for x in "qkvo"}
QUICK = ("--steps", "4", "--batch-tokens", "400", "--length", "400", "--rank", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, **SMALL)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} + {n}?"},
                {"role": "assistant", "content": f"{2 * n}"},
            ]
        }
        for n in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tune(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["tune", *map(str, arguments)])


def test_it_trains_and_says_what_it_kept(
    model: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    done = tune(data, "-m", model, "-o", folder, *QUICK, "--valid-share", "0.2")
    assert done.exit_code == 0, done.output
    assert f"Trained 4 steps; `{folder}` has the adapter of step " in done.stdout
    assert "validation loss " in done.stdout and ", before training " in done.stdout
    assert "24 documents, " in done.stderr and "; 6 documents validate" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "log.jsonl",
        "tune.json",
        "tune_state.safetensors",
    ]
    assert [x["step"] for x in read_log(folder) if "loss" in x] == [1, 2, 3, 4]


def test_the_adapter_that_was_kept_loads_with_the_logits_it_had(
    model: Path, data: Path, tmp_path: Path
) -> None:
    """Without validation the last is kept: its arrays are those of the state."""
    folder = tmp_path / "mine"
    options = ("--learning-rate", "0.01", "--valid-share", "0")
    assert tune(data, "-m", model, "-o", folder, *QUICK, *options).exit_code == 0
    checkpoint = open_checkpoint(model)
    loaded = load_model(checkpoint, dtype=mx.float32)
    ids = mx.array([list(range(40, 90))])
    plain = loaded(ids)

    saved = read_state(folder)
    assert saved is not None
    updates = TrainableUpdates(checkpoint.config, RANKS, scale=2.0)
    updates.update(tree_unflatten(list(saved.trained.items())))
    with updates.attached(loaded):
        trained = loaded(ids)
    assert open_adapter(folder, checkpoint.config).teaches_harmony
    adapter = read_adapter(folder, checkpoint.config, name="mine")
    loaded.set_adapters(AdapterStack(checkpoint.config, [adapter]))
    found = loaded(ids, adapters=[1])
    assert mx.array_equal(found, trained).item()
    assert float(mx.abs(found - plain).max().item()) > 1e-3  # pyright: ignore


def test_a_folder_with_a_run_is_not_overwritten(
    model: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    assert tune(data, "-m", model, "-o", folder, *QUICK).exit_code == 0
    again = tune(data, "-m", model, "-o", folder, *QUICK)
    assert again.exit_code == 1
    assert "has a run already: go on with `--resume`" in again.stderr


def test_a_run_goes_on_only_as_it_was_started(
    model: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    assert tune(data, "-m", model, "-o", folder, *QUICK).exit_code == 0
    same = tune(data, "-m", model, "-o", folder, *QUICK, "--resume")
    assert same.exit_code == 0, same.output
    other = tune(data, "-m", model, "-o", folder, *QUICK, "--resume", "--rank", "3")
    assert other.exit_code == 1
    assert "was started with rank `2`, not `3`" in other.stderr
    none = tune(data, "-m", model, "-o", tmp_path / "new", *QUICK, "--resume")
    assert "has no run to go on with: leave `--resume` out" in none.stderr


def test_an_adapter_is_trained_on_in_another_folder(
    model: Path, data: Path, tmp_path: Path
) -> None:
    """With a rate of almost nothing, what comes out is what went in."""
    first, second = tmp_path / "first", tmp_path / "second"
    fast = (*QUICK, "--learning-rate", "0.01", "--alpha", "3", "--valid-share", "0.2")
    slow = (*QUICK, "--learning-rate", "1e-12", "--valid-share", "0.2")
    assert tune(data, "-m", model, "-o", first, *fast).exit_code == 0
    on = tune(data, "-m", model, "-o", second, *slow, "--start", first)
    assert on.exit_code == 0, on.output

    config = open_checkpoint(model).config
    one, other = (read_adapter(x, config, name="x") for x in (first, second))
    for path, update in one.updates.items():
        assert mx.allclose(update.a, other.updates[path].a, atol=1e-6).item()
        assert mx.allclose(update.b, other.updates[path].b, atol=1e-6).item()
    (before, *_), (*_, kept) = (
        [x["validation_loss"] for x in read_log(folder) if "validation_loss" in x]
        for folder in (second, first)
    )
    assert before == pytest.approx(min(kept, read_log(first)[0]["validation_loss"]))
    assert "of an adapter trained before" in (second / "README.md").read_text()

    again = tune(data, "-m", model, "-o", second, *slow, "--resume")
    assert "was started with start `" in again.stderr


def test_a_run_that_made_it_worse_says_what_was_measured(
    model: Path, data: Path, tmp_path: Path
) -> None:
    fast = ("--learning-rate", "100", "--warmup", "0", "--steps", "1")
    done = tune(data, "-m", model, "-o", tmp_path / "x", *QUICK, *fast)
    assert done.exit_code == 0, done.output
    assert "it was lower before: train more, or slower" in done.stdout
    assert "without it" not in done.stdout  # it may have started from an adapter


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rank", "3"), "has rank 2, and 3 is to be trained: use `--rank 2`"),
        (("--layers", "1"), "also updates `model.layers.0.self_attn.k_proj`"),
        (("--target", "all"), "does not update `model.layers.0.mlp.experts.down_proj`"),
    ],
)
def test_an_adapter_of_other_matrices_is_not_trained_on(
    model: Path, data: Path, tmp_path: Path, options: tuple[str, str], says: str
) -> None:
    config = open_checkpoint(model).config
    mine = write_random_adapter(tmp_path / "mine", config, 1, rank=2)
    done = tune(
        *(data, "-m", model, "-o", tmp_path / "x", *QUICK, *options, "--start", mine)
    )
    assert done.exit_code == 1
    assert says in done.stderr
    assert not (tmp_path / "x").exists()


def test_an_interrupt_keeps_the_best_and_says_so(
    model: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    options = ("--steps", "5000", "--save-every", "50", "--evaluate-every", "5")
    quick = (*QUICK[2:], *options)
    command = [sys.executable, "-m", "mlx_gptoss", "tune", data, "-m", model]
    with subprocess.Popen(
        [*map(str, command), "-o", str(folder), *quick],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(600):
            log = folder / "log.jsonl"
            if log.is_file() and log.read_text().count("\n") > 12:
                break
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Interrupted at step " in stdout and " of 5,000; `" in stdout
    assert "the same command with --resume goes on" in stdout
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_preview_trains_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    shown = tune(data, "-m", model, "--preview")
    assert shown.exit_code == 0, shown.output
    assert "[[" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_run_needs_a_folder(model: Path, data: Path) -> None:
    done = tune(data, "-m", model)
    assert done.exit_code == 2 and "`-o FOLDER`" in done.stderr


def test_streamed_experts_are_refused(model: Path, data: Path, tmp_path: Path) -> None:
    done = tune(data, "-m", model, "-o", tmp_path / "x", "--experts", "streamed")
    assert done.exit_code == 1
    assert "training needs all experts in memory" in done.stderr


def test_float16_is_not_trained_in(data: Path, model: Path, tmp_path: Path) -> None:
    done = tune(data, "-m", model, "-o", tmp_path / "x", "--dtype", "float16")
    assert done.exit_code == 1
    assert "gradients overflow float16: train with `--dtype bfloat16`" in done.stderr


def test_what_does_not_fit_is_refused_before_a_weight_is_read(
    model: Path, data: Path, tmp_path: Path
) -> None:
    done = tune(data, "-m", model, "-o", tmp_path / "x", "--memory", "1MB")
    assert done.exit_code == 1
    assert "training `" in done.stderr and "(the memory asked for)" in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_command_line_has_the_defaults_of_the_options() -> None:
    seen: list[TuneOptions] = []

    @click.command()
    @trains
    def command(tuning: TuneOptions) -> None:
        seen.append(tuning)

    assert CliRunner().invoke(command, []).exit_code == 0
    given = ["--target", "experts,lm_head", "--rank", "3", "--decode", "off"]
    assert CliRunner().invoke(command, given).exit_code == 0
    assert seen == [
        TuneOptions(),
        TuneOptions(target=("experts", "lm_head"), rank=3, decode="off"),
    ]


def test_the_line_of_progress_has_all_figures() -> None:
    progress = TuneProgress(
        step=1200,
        steps=3000,
        loss=1.25,
        validation_loss=1.5,
        tokens_per_second=1234.5,
        memory_bytes=3_200_000_000,
        seconds_left=5400,
    )
    assert progress_text(progress) == (
        "step 1,200/3,000  loss 1.2500  validation 1.5000  1,234 tok/s  3.2 GB  "
        "1 h 30 min left"
    )
    assert [duration(x) for x in (3.2, 89, 95, 600)] == [
        "3 s",
        "89 s",
        "2 min",
        "10 min",
    ]


def test_plan_tune_lists_targets_and_ways(model: Path) -> None:
    arguments = ["plan", str(model), "--tune", "--batch-tokens", "128", "--rank", "4"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    for words in ("attention", "experts", "all", "kept", "again", "rank 4"):
        assert words in shown.stdout
    facts = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert {way["target"] for way in facts["ways"]} == {"attention", "experts", "all"}
    assert all(way["fits"] for way in facts["ways"])
