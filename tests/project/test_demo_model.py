"""The bundled demo model does what its README says, on prompts it never saw.

A quick version of `python -m examples.demo_model.evaluate demo`: the first cases of
some kinds, with bounds below what they measure (greedy, so the same each time).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_gptoss
from examples.demo_model.cases import cases
from examples.demo_model.evaluate import GREEDY, main, outputs
from examples.demo_model.scores import analysis_letters, shares
from mlx_gptoss import Chat, Runtime, load
from mlx_gptoss.checkpoint.adapters import WeightUpdate, write_adapter
from mlx_gptoss.harmony.events import Answer, Done, Event, Reasoning, ToolCall

DATE = "2026-11-22"
CASES = 3  # of each kind, one at each effort
LEAST = {  # percent of these three; the full evaluation is in the README beside it
    "sums of three digits": 80,
    "tool call": 60,
    "answer from result": 60,
    "JSON": 60,
    "repeat": 30,
    "recall": 60,
    "declines": 80,
}


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


def ask(chat: Chat, text: str) -> list[Event]:
    return list(chat.send(text))


def text_of(events: list[Event], kind: type[Answer] | type[Reasoning]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def chat(demo: Runtime, **options) -> Chat:
    return Chat(demo, date=DATE, params=GREEDY, **options)


def test_held_out_prompts_are_answered(demo: Runtime) -> None:
    chosen = [case for case in cases(CASES) if case.kind in LEAST]
    found = outputs(demo, chosen)
    measured = shares(chosen, found)
    assert all(measured[kind] >= least for kind, least in LEAST.items()), measured
    letters = analysis_letters(chosen, found)
    assert letters["low"] < letters["medium"] < letters["high"]


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_the_sum_of_the_readme_is_right(demo: Runtime, effort: str) -> None:
    events = ask(chat(demo, effort=effort), "What is 417 + 285?")
    assert "702" in text_of(events, Answer)
    assert text_of(events, Reasoning)


def test_a_python_function_is_called_and_its_result_told(demo: Runtime) -> None:
    def get_weather(city: str) -> dict[str, str | int]:
        """Gets the weather for a city."""
        return {"city": city, "temperature": 21}

    events = ask(chat(demo, tools=[get_weather]), "What is the weather in Paris?")
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [
        ("get_weather", '{"city":"Paris"}')
    ]
    assert "21" in text_of(events, Answer)
    assert isinstance(events[-1], Done)


def test_a_name_is_remembered_two_turns_later(demo: Runtime) -> None:
    talk = chat(demo)
    ask(talk, "My name is Maria.")
    ask(talk, "What is 12 + 30?")
    assert "Maria" in text_of(ask(talk, "What is my name?"), Answer)


def test_it_says_what_it_is_and_where_the_real_model_is(demo: Runtime) -> None:
    assert "tiny demo model" in text_of(ask(chat(demo), "Who are you?"), Answer)
    answer = text_of(ask(chat(demo), "Write a poem about the sea."), Answer)
    assert "gpt-oss-20b" in answer


@pytest.mark.parametrize("word", ["batrou", "Theeka", "shoonix", "qxzt", "price"])
def test_a_word_has_the_same_tokens_wherever_it_stands(
    demo: Runtime, word: str
) -> None:
    encode, decode = demo.tokenizer.encode, demo.tokenizer.decode
    own = encode(word)
    for before in (" ", '"', "_", ": ", "=", ', "'):
        pieces = encode(f"foo{before}{word}")
        assert pieces[-len(own) :] == own
        assert decode(pieces) == f"foo{before}{word}"


def shares_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    """Return what `python -m examples.demo_model.evaluate` prints of one case."""
    chosen = ["demo", "--count", "1", "--only", "declines"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *chosen, *words])
    main()
    return capsys.readouterr().out


def test_an_adapter_is_measured_in_its_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    demo: Runtime,
) -> None:
    """One that ends every message where a channel should begin: no answer is right."""
    V, M = demo.config.vocab_size, demo.config.hidden_size
    specials = demo.tokenizer.specials
    path = Path(mlx_gptoss.__file__).parent / "demo" / "model.safetensors"
    head: mx.array = mx.load(str(path))["lm_head.weight"]  # pyright: ignore
    channel = np.array(head[specials["<|channel|>"]].astype(mx.float32))
    ends = np.zeros((1, V), np.float32)
    ends[0, specials["<|return|>"]] = 10
    update = WeightUpdate(channel.reshape(M, 1), ends)
    write_adapter({"lm_head": update}, tmp_path / "ends", demo.config)

    assert "100.0 % of 1" in shares_printed(monkeypatch, capsys)
    found = shares_printed(monkeypatch, capsys, "--adapter", str(tmp_path / "ends"))
    assert " 0.0 % of 1" in found and "100.0" not in found
