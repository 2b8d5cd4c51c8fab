"""An answer that was cut short: the reason is kept, saved, and shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.history import cut_reason
from mlx_gptoss.chat.sessions import as_markdown
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.finish_notes import note_ending
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.finish_reasons import (
    EMPTY_ANSWER,
    NO_ANSWER,
    describe_cause,
    incomplete_cause,
)
from mlx_gptoss.engine.outputs import Statistics
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.events import Done, Event, ToolCall, ToolResult
from tests.support.fakes import answering
from tests.support.scripted_chat import TOKENIZER, ScriptedModel, scripted_runtime

FINAL = "<|channel|>final<|message|>"
THOUGHT = "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant"
HELLO = f"{THOUGHT}{FINAL}Hello!<|return|>"
BYE = f"{FINAL}Bye.<|return|>"
CALL = "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>"
CUT = "(stopped at --max-tokens or the end of the context)"
IN_HEADER = len("<anal")  # tokens: a special token is one
IN_THOUGHT = len("<analysis<They")
IN_ANSWER = len("<analysis<They greet.<<assistant<final<Hel")


def start(runtime: Runtime, max_tokens: int | None = None, **options: Any) -> Chat:
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    return Chat(runtime, params=params, date="2026-01-02", **options)


def last(events: Any) -> Event:
    *_, done = events
    return done


@pytest.mark.parametrize("limit", [IN_HEADER, IN_THOUGHT, IN_ANSWER])
def test_that_an_answer_was_cut_is_kept_with_it(limit: int) -> None:
    with answering(HELLO, BYE) as runtime:
        chat = start(runtime, limit)
        done = last(chat.send("hi"))
        assert isinstance(done, Done) and done.finish_reason == "length"
        assert cut_reason(chat.messages) == "length"

        again = Chat.from_json(runtime, json.dumps(chat.to_json()))
        assert cut_reason(again.messages) == "length"
        assert as_markdown(chat.to_json()).endswith(f"\n\n*{CUT}*\n")

        chat.params = SamplingParams(temperature=0)
        list(chat.regenerate())
        assert [message.ended for message in chat.messages] == [None, None]


@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_that_an_answer_was_stopped_is_kept_with_it(how: str) -> None:
    with answering(HELLO, BYE) as runtime:
        seen: list[str | None] = []
        chat = start(
            runtime, on_change=lambda chat: seen.append(cut_reason(chat.messages))
        )
        events = chat.send("hi")
        next(events)
        if how == "cancel":
            chat.cancel()
            list(events)
        events.close()

        assert seen == [None, "cancelled"]
        assert as_markdown(chat.to_json()).endswith("\n\n*(stopped)*\n")
        list(chat.send("bye"))
        assert cut_reason(chat.messages) is None
        assert cut_reason(chat.messages[:-2]) == "cancelled"


@pytest.mark.parametrize("how", ["leave", "interrupt"])
def test_a_turn_that_was_left_at_its_tools_is_marked_too(how: str) -> None:
    def look() -> str:
        """Looks."""
        if how == "interrupt":
            raise KeyboardInterrupt
        return "rain"

    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[look], tool_seconds=None)
        events = chat.send("hi")
        assert isinstance(next(events), ToolCall)
        if how == "interrupt":
            with pytest.raises(KeyboardInterrupt):
                next(events)
        else:
            assert isinstance(next(events), ToolResult)
            events.close()

        assert cut_reason(chat.messages) == "cancelled"
        list(chat.send("and now?"))
        assert cut_reason(chat.messages) is None


def test_a_turn_that_goes_on_with_a_result_was_not_cut() -> None:
    """The tokens ran out in a second call; the first is answered later."""
    two = CALL.replace("<|call|>", "<|end|><|start|>assistant") + CALL
    limit = len("<commentary to=functions.look <json<{}<<assistant<comm")
    with answering(two, BYE) as runtime:
        chat = start(runtime, limit, tools=[{"name": "look"}])
        list(chat.send("hi"))
        assert cut_reason(chat.messages) == "length"

        [call] = chat.waiting
        list(chat.submit_result(call.id, "rain"))

        assert [message.ended for message in chat.messages] == [None] * 4


def test_too_many_rounds_of_calls_are_named() -> None:
    def look() -> str:
        """Looks."""
        return "rain"

    with answering(CALL, CALL, BYE) as runtime:
        chat = start(runtime, tools=[look], max_rounds=2)
        *_, result, done = chat.send("hi")

        assert isinstance(result, ToolResult) and isinstance(done, Done)
        assert done.finish_reason == "length"
        assert done.stats.finish_details == ("tool_rounds",)
        assert cut_reason(chat.messages) == "tool_rounds"


@pytest.mark.parametrize(
    ("reason", "details", "expected"),
    [
        ("stop", (), None),
        ("tool_calls", ("reasoning_budget",), None),
        ("length", (), "length"),
        ("length", ("analysis_loop",), "length"),  # the model continued to the limit
        ("length", ("final_loop",), "final_loop"),
        ("length", ("analysis_loop", "call_loop"), "call_loop"),
        ("length", ("something new",), "length"),
        ("cancelled", ("final_loop",), "cancelled"),
    ],
)
def test_what_ended_an_answer_is_the_last_thing_that_did(
    reason: str, details: tuple[str, ...], expected: str | None
) -> None:
    assert incomplete_cause(reason, details) == expected


def test_causes_of_a_later_version_are_said_in_general() -> None:
    assert describe_cause("meteorite") == "cut short"


# What the commands say.


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)


def run(
    *words: str, runtime: Runtime | None = None, stdin: str | None = None
) -> Result:
    runtime = runtime or scripted_runtime(HELLO, BYE)
    options = ["-m", "demo", "--temperature", "0"] if words[0] != "sessions" else []
    load = Services(load=lambda model, **options: runtime)
    return CliRunner().invoke(cli, [*words, *options], obj=load, input=stdin)


def said(result: Result) -> list[str]:
    """Return the text in brackets on stderr, and check the exit code."""
    assert result.exit_code == 0
    return [line for line in result.stderr.splitlines() if line.startswith("(")]


COMMANDS = [
    (["generate", "hi"], None),
    (["chat", "hi"], ""),
    (["chat"], "hi\n"),
]


@pytest.mark.parametrize(("words", "stdin"), COMMANDS)
def test_every_command_says_that_an_answer_was_cut(
    words: list[str], stdin: str | None
) -> None:
    result = run(*words, "--max-tokens", str(IN_ANSWER), stdin=stdin)
    assert (result.stdout, said(result)) == ("Hel\n", [CUT])


@pytest.mark.parametrize(("words", "stdin"), COMMANDS)
@pytest.mark.parametrize("limit", [IN_HEADER, IN_THOUGHT])
def test_every_command_says_what_to_do_where_no_answer_came(
    words: list[str], stdin: str | None, limit: int
) -> None:
    result = run(*words, "--max-tokens", str(limit), stdin=stdin)
    assert (result.stdout, said(result)) == ("", [CUT, f"({NO_ANSWER})"])


@pytest.mark.parametrize(("words", "stdin"), COMMANDS)
def test_every_command_says_that_the_context_is_full(
    words: list[str], stdin: str | None
) -> None:
    model = ScriptedModel((f"{FINAL}{'on and ' * 90}<|return|>",))
    runtime = Runtime(
        model, tokenizer=TOKENIZER, context=400, cache=CacheOptions(idle=False)
    )
    result = run(*words, runtime=runtime, stdin=stdin)
    assert result.stdout.startswith("on and on") and said(result) == [CUT]


def test_of_an_answer_that_went_in_circles_only_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stats = Statistics(1, 0, finish_reason="length", finish_details=("final_loop",))
    note_ending(stats, answer="on and on")
    assert capsys.readouterr().err == "(the answer repeated itself and was cut)\n"


@pytest.mark.parametrize(("words", "stdin"), COMMANDS)
def test_every_command_says_that_the_model_said_nothing(
    words: list[str], stdin: str | None
) -> None:
    result = run(*words, runtime=scripted_runtime(f"{FINAL}<|return|>"), stdin=stdin)
    assert said(result) == [f"({EMPTY_ANSWER})"]


def test_a_whole_answer_is_not_talked_about() -> None:
    assert said(run("generate", "hi")) == said(run("chat", stdin="hi\n")) == []


def test_a_chat_that_was_cut_says_so_when_it_is_gone_on_with() -> None:
    run("chat", "--max-tokens", str(IN_ANSWER), stdin="hi\n")

    shown = run("sessions", "show", kept_id())
    gone_on = run("chat", "--continue", stdin="")
    run("chat", "--continue", stdin="/retry\n")

    assert shown.stdout.endswith(f"Hel\n\n*{CUT}*\n")
    assert said(gone_on) == [f"{CUT[:-1]}; /retry answers again)"]
    assert said(run("chat", "--continue", stdin="")) == []


def kept_id() -> str:
    [one] = json.loads(run("sessions", "--json").stdout)
    return one["id"]


@pytest.mark.parametrize("overflow", ["error", "drop-oldest"])
def test_the_meter_never_shows_more_than_there_is(overflow: str) -> None:
    model = ScriptedModel((f"{FINAL}{'on and ' * 90}<|return|>",))
    runtime = Runtime(
        model, tokenizer=TOKENIZER, context=400, cache=CacheOptions(idle=False)
    )
    result = run(
        "chat", "--overflow", overflow, runtime=runtime, stdin="hi\n/stats\n/model\n"
    )
    full = [line for line in result.stderr.splitlines() if "400 tokens" in line]
    assert full == [
        "conversation: 400 / 400 tokens, full",
        "Model: demo, 400 / 400 tokens, full",
    ]


def test_a_chat_longer_than_the_context_is_shown_as_full() -> None:
    run("chat", stdin="hi\n" + "tell me more\n" * 10)
    model = ScriptedModel((BYE,))
    small = Runtime(
        model, tokenizer=TOKENIZER, context=300, cache=CacheOptions(idle=False)
    )
    result = run("chat", "--continue", runtime=small, stdin="/stats\n")
    assert "conversation: 300 / 300 tokens, full" in result.stderr
