"""`bench serve`: its requests, its figures, its report."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.bench_serve import table
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.engines import MLX_LM
from mlx_gptoss.diagnostics.bench.our_server import OurServer
from mlx_gptoss.diagnostics.bench.serve import OVERTAKEN, UNCOUNTED, Side, bench_serve
from mlx_gptoss.diagnostics.bench.serve_load import (
    UNSAID,
    Conversation,
    RoundTimings,
    ServeLoad,
    run_round,
)
from mlx_gptoss.diagnostics.bench.serve_results import (
    ServeBench,
    ServerResult,
    StreamLevel,
    TurnLevel,
    busy_seconds,
    pace_beside,
    summarize_round,
    take_medians,
)
from mlx_gptoss.diagnostics.bench.streams import ServerAddress, StreamTiming
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import byte_tokenizer, write_tokenizer
from tests.support.scripted_completions import (
    DONE,
    Script,
    ScriptedCompletions,
    event,
    last_event,
    usage,
)

LOAD = ServeLoad(byte_tokenizer(), [2, 258], prompt_tokens=20, tokens=5)
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
            (
                StreamLevel(1, 30.0, 0.2, 0.2, 0.01, 0.02, 0.03),
                StreamLevel(4, 90.0, 0.5, 0.75),
            ),
        ),
        ServerResult(
            "mlx-lm",
            (
                StreamLevel(1, 20.0, 0.3, 0.3, 0.03, 0.03, 0.06),
                StreamLevel(4, 60.0, 1.5, 1.5),
            ),
        ),
    ),
)


def talk(load: ServeLoad, turns: int = 2, *, harmony: bool = False) -> list[dict]:
    conversation = Conversation(load, "seed", strict=True, harmony=harmony)
    bodies = []
    for turn in range(turns):
        bodies.append(conversation.request())
        conversation.take_answer("" if turn else " and so")
    return bodies


def timing(
    *arrivals: float, asked: float = 0.0, read: int | None = None
) -> StreamTiming:
    return StreamTiming(
        asked, arrivals[0], arrivals[-1], 9, len(arrivals), read, arrivals
    )


def test_all_sides_are_asked_the_same_and_no_prompt_twice() -> None:
    bodies = [
        [
            each.request()
            for each in LOAD.conversations(3, seed, strict=True, harmony=False)
        ]
        for seed in (0, 0, 1)
    ]
    prompts = [body["prompt"] for one in bodies for body in one]

    assert bodies[0] == bodies[1]
    assert len(set(prompts)) == 6
    assert all(20 <= len(LOAD.tokenizer.encode(prompt)) < 32 for prompt in prompts)
    assert bodies[0][0]["logit_bias"] == {"2": -100.0, "258": -100.0}


@pytest.mark.parametrize("tokens", [1, 64, 1500])
def test_prompts_are_as_long_as_asked_for(tokens: int) -> None:
    load = replace(LOAD, tokenizer=Tokenizer.open(resolve("demo")))
    load = replace(load, prompt_tokens=tokens)
    [conversation] = load.conversations(1, 0, strict=False, harmony=False)
    request = conversation.request()

    assert tokens <= len(load.tokenizer.encode(request["prompt"])) <= tokens + 8
    assert "logit_bias" not in request  # a server at a URL has ids of its own


def test_a_raw_conversation_continues_its_own_text() -> None:
    first, second, third = (body["prompt"] for body in talk(LOAD, 3))

    assert second.startswith(f"{first} and so ")
    assert third.startswith(f"{second}{UNSAID} ")


def test_a_chat_repeats_its_messages() -> None:
    first, second = (body["messages"] for body in talk(replace(LOAD, chat=True)))
    harmony = talk(replace(LOAD, chat=True), harmony=True)[1]["messages"]

    assert second[:2] == [*first, {"role": "assistant", "content": " and so"}]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert harmony[1]["content"].endswith("final<|message|> and so<|end|>")


def test_a_tail_changes_where_the_prompt_does_not() -> None:
    load = replace(LOAD, prompt_tokens=200, tail=12)

    one, other = (body["prompt"] for body in talk(load))

    common = len(LOAD.tokenizer.encode(one)) - 26  # a number and a word are longer
    assert one != other and one[:common] == other[:common]


def test_a_round_is_summed_up() -> None:
    first = timing(1.5, 2.0, 3.0, asked=1.0, read=4)
    second = timing(2.5, 4.0, 5.0, asked=1.0, read=8)
    later = timing(10.5, 11.0, asked=10.0)

    found = summarize_round(
        RoundTimings([[first, later], [second, later]], [timing(7.0)])
    )

    assert found == StreamLevel(
        2,
        tokens_per_second=10 / 5,  # nobody waits for an answer from 5 to 10
        first_token_s=1.0,
        last_first_token_s=1.5,
        gap_s=0.75,
        gap_p99_s=1.5,
        longest_gap_s=1.5,
        tokens=2.5,
        beside_first_token_s=7.0,
        turns=(TurnLevel(1, 1.0, 9, 6), TurnLevel(2, 0.5, 9, None)),
    )


def test_the_pace_beside_long_prompts_is_a_share_of_the_pace_otherwise() -> None:
    long = timing(14.0, asked=4.0)
    slowed = timing(*range(5), 8, 12, *range(16, 20))  # every 4 s from 4 to 16
    steady = timing(*range(20))
    short = timing(5.0, 6.0)

    assert pace_beside([slowed], [long]) == 0.25
    assert pace_beside([slowed, steady], [long]) == 0.625
    assert pace_beside([short], [long]) is None
    assert pace_beside([slowed], []) is None


def test_an_answer_of_another_length_cannot_be_compared() -> None:
    with pytest.raises(EngineFailure, match="2 tokens and not 6"):
        summarize_round(RoundTimings([[timing(1.0, 2.0)]], []), 6)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=6)
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_busy_time_is_the_union_of_all_requests(spans: list[tuple[int, int]]) -> None:
    answers = [timing(a, a + length, asked=a) for a, length in spans]
    covered = {n for a, length in spans for n in range(a, a + length)}

    assert busy_seconds(answers) == len(covered)


def test_figures_are_medians() -> None:
    turn = TurnLevel(1, 0.5, 9, 4)
    one = StreamLevel(4, 10.0, 1.0, 2.0, tokens=5, turns=(turn,))
    rounds = [
        one,
        replace(one, tokens_per_second=30.0, gap_s=1.0),
        replace(one, first_token_s=9.0, turns=(replace(turn, read_tokens=None),)),
    ]

    assert take_medians(rounds) == replace(one, gap_s=1.0)


def test_the_table_shows_both_sides_and_the_ratios() -> None:
    assert table(FOUND).splitlines() == [
        "            streams  throughput  first token  the last of them  next token"
        "   99 %  longest",
        "mlx_gptoss        1  30.0 tok/s       0.20 s            0.20 s       10 ms"
        "  20 ms    30 ms",
        "mlx_gptoss        4  90.0 tok/s       0.50 s            0.75 s           -"
        "      -        -",
        "mlx-lm            1  20.0 tok/s       0.30 s            0.30 s       30 ms"
        "  30 ms    60 ms",
        "mlx-lm            4  60.0 tok/s       1.50 s            1.50 s           -"
        "      -        -",
        "mlx_gptoss / mlx-lm: 1 streams 1.50x, first token 1.50x, next token 3.00x, "
        "longest gap 2.00x; 4 streams 1.50x, first token 3.00x",
        "64 tokens read and 32 said by each stream, medians of 3 rounds; demo, "
        "float32, on a machine; load average 0.5",
    ]


def test_turns_are_shown_with_what_they_read() -> None:
    turns = (TurnLevel(1, 0.5, 3000, 3000), TurnLevel(2, 0.25, 3000, None))
    level = StreamLevel(1, 9.0, 0.5, 0.5, turns=turns)
    found = replace(FOUND, sides=(ServerResult("mlx_gptoss", (level,)),), turns=2)

    assert table(found).splitlines()[3:6] == [
        "            streams  turn  first token  prompt   read",
        "mlx_gptoss        1     1       0.50 s   3,000  3,000",
        "mlx_gptoss        1     2       0.25 s   3,000      -",
    ]


def test_a_peer_that_failed_is_named_and_not_compared() -> None:
    broken = replace(
        FOUND, sides=(FOUND.sides[0], ServerResult("mlx-lm", failure="out of luck"))
    )

    assert broken.ratios == ()
    assert "mlx-lm: out of luck" in table(broken)


def rounds_of(script: Script, load: ServeLoad, streams: int) -> tuple[Side, list[dict]]:
    with ScriptedCompletions(script) as server:
        side = Side("other", lambda: None, strict=False)  # type: ignore
        side.address = ServerAddress("other", server.url)
        side.run(load, streams, 0)
    return side, [body for _, body, _ in server.requests]


def spoken(*more: bytes) -> Script:
    return Script([event("a"), event("b"), last_event(), *more, DONE])


def test_prompts_are_sent_before_if_decoding_alone_is_measured() -> None:
    _, bodies = rounds_of(spoken(usage(9, 2)), replace(LOAD, prefilled=True), 2)

    assert [body["max_tokens"] for body in bodies] == [1, 1, 5, 5]
    assert {b["prompt"] for b in bodies[:2]} == {b["prompt"] for b in bodies[2:]}


def test_long_prompts_are_sent_once_all_streams_have_begun() -> None:
    load = replace(LOAD, beside=2, beside_tokens=90)

    side, bodies = rounds_of(spoken(usage(9, 2)), load, 3)

    assert [len(body["prompt"]) > 80 for body in bodies] == [False] * 3 + [True] * 2
    assert side.notes == {OVERTAKEN}  # this server's streams end at once
    assert (side.levels[3][0].beside_first_token_s or 0) > 0


def test_a_server_without_usage_is_measured_by_events_and_says_so() -> None:
    side, _ = rounds_of(spoken(), LOAD, 1)

    assert side.result().notes == (UNCOUNTED,)
    assert side.result().levels[0].tokens == 2


def test_a_stream_that_fails_ends_the_round() -> None:
    with (
        ScriptedCompletions(Script([event("a")])) as server,
        pytest.raises(EngineFailure, match="broke off"),
    ):
        address = ServerAddress("other", server.url)
        run_round(address, replace(LOAD, beside=1), 2, 0, strict=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(
        tmp_path_factory.mktemp("model"), num_hidden_layers=2, vocab_size=300
    )
    write_tokenizer(folder)
    return folder


def test_all_servers_are_measured_in_one_run(folder: Path) -> None:
    """Ours, mlx-lm's, ours again at a URL, and one that fails in the warm-up."""
    with (
        OurServer(folder, LoadOptions(dtype="float32")) as running,
        ScriptedCompletions(Script([b"{}"], 500)) as failing,
    ):
        found = bench_serve(
            folder,
            LoadOptions(),
            against=(MLX_LM, f"{running.address.url}/v1", failing.url),
            against_key=running.address.key,
            streams=(2,),
            prompt_tokens=12,
            tokens=4,
            rounds=1,
            turns=2,
        )

    ours, theirs, again, failed = found.sides
    assert [side.failure for side in (ours, theirs, again)] == [None] * 3
    assert (failed.failure or "").startswith(f"{failing.url}: HTTP 500")
    for side in (ours, theirs, again):
        assert [level.streams for level in side.levels] == [2]
        assert all(len(level.turns) == 2 for level in side.levels)
        assert all(x.tokens_per_second > 0 for x in side.levels)
    assert all(turn.read_tokens for x in ours.levels for turn in x.turns)
    assert [ratio.against for ratio in found.ratios] == ([theirs.name, again.name])
    assert json.loads(json.dumps(found.as_json()))["ratios"][0]["throughput"] > 0
    assert "read" in table(found)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"against": "vllm"}, "give `mlx-lm`, or the URL"),
        ({"against": ["mlx-lm", "http:"]}, "give `mlx-lm`, or the URL"),
        ({"prompts": "odd"}, "`raw` or `chat`"),
        ({"tail": 64}, "leaves nothing of a prompt of 64"),
    ],
)
def test_what_cannot_be_measured_is_said(
    folder: Path, options: dict, reason: str
) -> None:
    with pytest.raises(GptOssError, match=reason):
        bench_serve(folder, LoadOptions(), **options)


@pytest.mark.parametrize("words", [(), ("--turns", "2"), ("--tail", "9")])
def test_the_command_explains_itself(words: Sequence[str]) -> None:
    found = CliRunner().invoke(cli, ["bench", "serve", *words, "--help"])

    assert found.exit_code == 0
    assert "--against-model" in found.output
