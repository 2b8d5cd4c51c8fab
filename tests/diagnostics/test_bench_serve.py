"""`bench serve`: its requests, its timing, its report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.bench_serve import table
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.engines import MLX_LM
from mlx_gptoss.diagnostics.bench.serve import (
    CompletionLoad,
    ServeBench,
    ServerResult,
    StreamLevel,
    bench_serve,
    summarize_round,
    take_medians,
)
from mlx_gptoss.diagnostics.bench.streams import (
    ServerAddress,
    StreamTiming,
    time_stream,
)
from mlx_gptoss.errors import GptOssError
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import byte_tokenizer, write_tokenizer

ASKING = CompletionLoad(
    byte_tokenizer(), [2, 258], streams=(1, 3), prompt_tokens=20, tokens=5
)
FOUND = ServeBench(
    "demo",
    "a machine",
    0.5,
    "float32",
    64,
    32,
    3,
    (
        ServerResult(
            "mlx_gptoss",
            (StreamLevel(1, 30.0, 0.2, 0.2), StreamLevel(4, 90.0, 0.5, 0.75)),
        ),
        ServerResult(
            "mlx-lm", (StreamLevel(1, 20.0, 0.3, 0.3), StreamLevel(4, 60.0, 1.5, 1.5))
        ),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(
        tmp_path_factory.mktemp("model"), num_hidden_layers=2, vocab_size=300
    )
    write_tokenizer(folder)
    return folder


def test_all_sides_are_asked_the_same_and_no_prompt_twice() -> None:
    bodies = [ASKING.bodies(3, seed) for seed in (0, 0, 1)]
    prompts = [body["prompt"] for one in bodies for body in one]

    assert bodies[0] == bodies[1]
    assert len(set(prompts)) == 6
    assert all(20 <= len(ASKING.tokenizer.encode(prompt)) < 32 for prompt in prompts)
    assert bodies[0][0]["logit_bias"] == {"2": -100.0, "258": -100.0}


def test_a_round_is_summed_up_from_the_first_request_to_the_last_token() -> None:
    answers = [StreamTiming(1.0, 1.5, 3.0, 9, 5), StreamTiming(1.0, 2.5, 5.0, 9, 5)]

    assert summarize_round(answers, 5) == StreamLevel(2, 2.5, 1.0, 1.5)
    with pytest.raises(EngineFailure, match="5 tokens and not 6"):
        summarize_round(answers, 6)


def test_figures_are_medians() -> None:
    one = StreamLevel(4, 10.0, 1.0, 2.0)
    rounds = [
        one,
        replace(one, tokens_per_second=30.0),
        replace(one, first_token_s=9.0),
    ]

    assert take_medians(rounds) == one


def test_the_table_shows_both_sides_and_the_ratios() -> None:
    assert table(FOUND).splitlines() == [
        "            streams  throughput  first token  the last of them",
        "mlx_gptoss        1  30.0 tok/s       0.20 s            0.20 s",
        "mlx_gptoss        4  90.0 tok/s       0.50 s            0.75 s",
        "mlx-lm            1  20.0 tok/s       0.30 s            0.30 s",
        "mlx-lm            4  60.0 tok/s       1.50 s            1.50 s",
        "mlx_gptoss / mlx-lm: 1 streams 1.50x, first token 1.50x; "
        "4 streams 1.50x, first token 3.00x",
        "64 tokens read and 32 said by each stream, medians of 3 rounds; demo, "
        "float32, on a machine; load average 0.5",
    ]


def test_a_peer_that_failed_is_named_and_not_compared() -> None:
    broken = replace(
        FOUND, sides=(FOUND.sides[0], ServerResult("mlx-lm", failure="out of luck"))
    )

    assert broken.ratios == ()
    assert "mlx-lm: out of luck" in table(broken)


def test_both_servers_are_measured_in_one_run(folder: Path) -> None:
    found = bench_serve(
        folder, against=MLX_LM, streams=(1, 2), prompt_tokens=12, tokens=4, rounds=1
    )

    ours, theirs = found.sides
    assert (ours.failure, theirs.failure) == (None, None)
    assert [level.streams for level in ours.levels] == [1, 2]
    assert all(x.tokens_per_second > 0 for x in (*ours.levels, *theirs.levels))
    assert [ratio.streams for ratio in found.ratios] == [1, 2]
    assert json.loads(json.dumps(found.as_json()))["ratios"][0]["throughput"] > 0


def test_what_cannot_be_compared_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GptOssError, match="only `mlx-lm` is known"):
        bench_serve(folder, against="vllm")
    with pytest.raises(EngineFailure, match="nobody does not answer"):
        time_stream(ServerAddress("nobody", 1), {})


def test_the_command_explains_itself() -> None:
    found = CliRunner().invoke(cli, ["bench", "serve", "--help"])

    assert found.exit_code == 0
    assert "--against" in found.output
