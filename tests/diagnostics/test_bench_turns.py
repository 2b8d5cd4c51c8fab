"""`bench turns`: its script, the tokens we prefill, and the peer's server."""

import json
from pathlib import Path

import pytest

from mlx_gptoss.cli.bench_tables import turns_table
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.restart import Restart
from mlx_gptoss.diagnostics.bench.stock_client import StockServer
from mlx_gptoss.diagnostics.bench.turn_script import (
    ConversationScript,
    Lengths,
    ScriptedRequest,
)
from mlx_gptoss.diagnostics.bench.turns import (
    RequestTiming,
    TurnResult,
    TurnsBench,
    bench_turns,
    merge_rounds,
)
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import SPECIALS, byte_tokenizer, write_tokenizer

TOKENIZER = byte_tokenizer()
SHORT = Lengths(system=20, question=9, thinking=5, answer=7, arguments=4, result=8)
WHOLE = 1.1  # tokens read for one that is new


@pytest.fixture(scope="module")
def requests() -> list[ScriptedRequest]:
    return list(ConversationScript(TOKENIZER, turns=4, lengths=SHORT).requests())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(
        tmp_path_factory.mktemp("model"), num_hidden_layers=2, vocab_size=300
    )
    write_tokenizer(folder)
    return folder


def test_the_script_is_a_conversation_with_a_tool(
    requests: list[ScriptedRequest],
) -> None:
    assert [request.name for request in requests] == [
        "1",
        "2",
        "3",
        "3, after the tool",
        "4",
        "the last answer again",
        "the last question edited",
        "another conversation",
    ]


def test_a_prompt_is_what_was_read_before_then_the_answer_then_what_is_new(
    requests: list[ScriptedRequest],
) -> None:
    for request in requests:
        known = len(request.prompt) - request.new
        assert request.prompt[:known] == request.before[:known]
        assert 0 <= request.answer <= known
    first, second = requests[:2]
    assert (first.new, first.answer) == (len(first.prompt), 0)
    question = TOKENIZER.decode(second.prompt[-second.new :])
    assert question.startswith("<|start|>user<|message|>")
    answered = TOKENIZER.decode(second.before[-second.answer :])
    assert answered.startswith("<|start|>assistant<|channel|>final")


def test_what_is_said_is_what_the_model_writes(requests: list[ScriptedRequest]) -> None:
    said = [TOKENIZER.decode(request.reply) for request in requests]

    assert all(text.startswith("<|channel|>") for text in said)
    assert [text.count("<|call|>") for text in said] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert said[2].endswith("<|call|>") and said[3].endswith("<|return|>")
    assert " to=functions.look_up <|constrain|>json" in said[2]


def test_ours_reads_what_is_new_and_no_more(folder: Path) -> None:
    """Checks the counts; the times are for people."""
    found = bench_turns(
        folder, LoadOptions(), turns=3, lengths=SHORT, restart_tokens=300
    )

    assert found.first_token_ratios == ()
    assert found.restart is not None and found.restart.file_bytes > 0
    assert found.worst_back_to_back <= WHOLE
    assert found.worst_after_idle <= WHOLE
    tool = next(turn for turn in found.turns if turn.name == "3, after the tool")
    assert tool.back_to_back.read == tool.answer + tool.new


def test_the_peers_server_reads_the_same_prompts(folder: Path) -> None:
    pytest.importorskip("mlx_lm")

    found = bench_turns(folder, LoadOptions(), against="mlx-lm", turns=3, lengths=SHORT)

    assert found.failure is None
    reads = [turn.peer.read for turn in found.turns if turn.peer]
    assert len(reads) == len(found.turns)
    assert all(0 < read <= t.prompt for read, t in zip(reads, found.turns, strict=True))


def test_a_peer_that_cannot_start_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "mlx_lm"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no such luck')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    with pytest.raises(EngineFailure, match="did not start: ImportError: no such luck"):
        StockServer(folder, "float32")


def test_an_unknown_peer_and_a_model_without_harmony_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(GptOssError, match="only `mlx-lm` is known"):
        bench_turns(folder, LoadOptions(), against="other")
    plain = write_checkpoint(tmp_path, num_hidden_layers=1)
    write_tokenizer(plain, SPECIALS[1:2])
    with pytest.raises(GptOssError, match="Harmony"):
        bench_turns(plain, LoadOptions())


def test_figures_are_medians_of_the_rounds(requests: list[ScriptedRequest]) -> None:
    def timings(seconds: float) -> list[list[RequestTiming]]:
        return [[RequestTiming(4, seconds), RequestTiming(2, 1.0)] for _ in requests]

    found = merge_rounds(requests, [timings(1.0), timings(9.0), timings(2.0)])

    assert [turn.name for turn in found] == [request.name for request in requests]
    assert {turn.back_to_back for turn in found} == {RequestTiming(4, 2.0)}
    assert {turn.after_idle for turn in found} == {RequestTiming(2, 1.0)}
    assert {turn.peer for turn in found} == {None}


def test_later_turns_are_compared_by_their_first_token() -> None:
    def turn(name: str, ours: float, theirs: float) -> TurnResult:
        mine = RequestTiming(9, ours)
        return TurnResult(name, 9, 9, 0, mine, mine, RequestTiming(9, theirs))

    turns = [turn("1", 9.0, 1.0), turn("2", 1.0, 2.0), turn("3", 3.0, 4.0)]
    turns += [turn("3, after the tool", 1.0, 1.0), turn("the last answer again", 5, 1)]
    found = TurnsBench("m", "a Mac", 0.1, "float32", tuple(turns), peer="mlx-lm")

    assert found.first_token_ratios == (0.5, 0.75, 1.0)
    assert found.as_json()["median_first_token_ratio"] == 0.75
    assert found.as_json()["worst_first_token_ratio"] == 1.0
    assert "back to back: 0.75x, at most 1.00x of its time" in turns_table(found)


def test_a_table_has_a_row_for_each_request() -> None:
    turn = TurnResult("2", 100, 30, 20, RequestTiming(50, 0.5), RequestTiming(30, 0.25))
    restart = Restart(8192, read_s=10.0, load_s=0.5, file_bytes=2_000_000)
    found = TurnsBench(
        "m", "a Mac", 0.1, "float32", (turn,), restart, failure="no peer"
    )

    assert turns_table(found) == (
        "turn  prompt  answer  new  back to back    after idle\n"
        "2        100      20   30  50 in 0.50 s  30 in 0.25 s\n"
        "no peer\n"
        "read / (answer + new), back to back: at most 1.00\n"
        "read / new, after idle: at most 1.00\n"
        "restart with 8,192 tokens: read in 10.00 s, from disk in 0.50 s "
        "(20.0x; 2.0 MB)\n"
        "m, float32, on a Mac; load average 0.1"
    )
    assert json.loads(json.dumps(found.as_json()))["worst_after_idle"] == 1.0
