"""What is learned of a conversation, against openai_harmony's rendering.

The rules are written down again here: the prompt of a turn has no analysis of the turns
before it, and what the model writes in the turn is learned.
"""

import json
from itertools import pairwise

import numpy as np
import openai_harmony
import pytest
from hypothesis import given, settings

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.workloads.tune.documents import Renderer, TrainingDocument
from mlx_gptoss.workloads.tune.examples import TrainingExample
from mlx_gptoss.workloads.tune.row_forms import read_example
from mlx_gptoss.workloads.tune.settings import CorpusSettings
from tests.support.harmony_strategies import oracle_conversation, oracle_message
from tests.support.tune_conversations import Talk, chat_row, harmony_row, talks
from tests.support.vocabulary import O200k, is_oss_harmony, oracle

VOCABULARY = O200k()
KEEP = openai_harmony.RenderConversationConfig(auto_drop_analysis=False)
# The position in which the installed library writes the recipient of a call.
FORM = "channel" if is_oss_harmony() else "role"
LONG = CorpusSettings(length=10_000, recipient_in=FORM)
PROMPTED = "<|start|>assistant"
EXAMPLES, SOAK_EXAMPLES = 30, 3000


def documents(row: object, using: CorpusSettings = LONG) -> list[TrainingDocument]:
    return Renderer(VOCABULARY, using).documents(read_example(row, using))


def text(document: TrainingDocument) -> str:
    return oracle().decode(document.ids.tolist())


def learned_text(document: TrainingDocument) -> str:
    return oracle().decode(document.ids[document.learned].tolist())


def has_analysis(turn: tuple[m.Message, ...]) -> bool:
    return any(message.channel == "analysis" for message in turn)


def expected_ids(talk: Talk) -> list[list[int]]:
    """Render, with the library, each turn that has analysis and the last one."""
    out = []
    for place, turn in enumerate(talk.turns):
        if has_analysis(turn) or turn is talk.turns[-1]:
            before = [one for other in talk.turns[:place] for one in other]
            history = [one for one in before if one.channel != "analysis"]
            whole = oracle_conversation([*talk.start, *history, *turn])
            out.append(oracle().render_conversation_for_training(whole, KEEP))
    return out


def expected_learned(talk: Talk) -> str:
    """Return what the library writes for the assistant's messages."""
    out = ""
    for turn in talk.turns:
        for before, message in pairwise(turn):
            if message.role != "assistant":
                continue
            written = oracle().decode(oracle().render(oracle_message(message)))
            if before.role != "assistant":  # then the prompt ends with its start
                written = written.removeprefix(PROMPTED)
            if message.channel == "final":
                ended = has_analysis(turn) or turn is talk.turns[-1]
                written = written.removesuffix("<|end|>") + "<|return|>" * ended
            out += written
    return out


@settings(deadline=None, max_examples=EXAMPLES)
@given(talks())
def test_documents_are_what_the_library_renders_for_training(talk: Talk) -> None:
    found = [document.ids.tolist() for document in documents(harmony_row(talk))]

    assert found == expected_ids(talk)


@settings(deadline=None, max_examples=EXAMPLES)
@given(talks())
def test_what_the_assistant_writes_is_learned_once_and_nothing_else(talk: Talk) -> None:
    found = documents(harmony_row(talk))

    assert "".join(map(learned_text, found)) == expected_learned(talk)


@settings(deadline=None, max_examples=EXAMPLES)
@given(talks())
def test_a_row_reads_as_the_library_reads_it(talk: Talk) -> None:
    row = harmony_row(talk)
    example = read_example(row, LONG)
    assert isinstance(example, TrainingExample)
    read = openai_harmony.Conversation.from_json(json.dumps(row))
    whole = oracle().render_conversation(read, KEEP)

    assert list(example.messages) == talk.messages
    assert oracle().render_conversation(
        oracle_conversation(list(example.messages)), KEEP
    ) == (whole)


@pytest.mark.soak
def test_thousands_of_conversations_are_learned_as_the_library_writes_them(
    request: pytest.FixtureRequest,
) -> None:
    if "soak" not in request.config.option.markexpr:
        pytest.skip("run by hand: pytest -m soak")

    def check(talk: Talk) -> None:
        found = documents(harmony_row(talk))
        assert [document.ids.tolist() for document in found] == expected_ids(talk)
        assert "".join(map(learned_text, found)) == expected_learned(talk)

    settings(deadline=None, max_examples=SOAK_EXAMPLES)(given(talks())(check))()


@pytest.mark.parametrize("key", ["thinking", "reasoning_content", "reasoning"])
@settings(deadline=None, max_examples=EXAMPLES)
@given(talks())
def test_both_forms_of_a_conversation_give_the_same_documents(
    key: str, talk: Talk
) -> None:
    chat, harmony = documents(chat_row(talk, key)), documents(harmony_row(talk))

    assert [one.ids.tolist() for one in chat] == [one.ids.tolist() for one in harmony]
    assert [one.learned.tolist() for one in chat] == [
        one.learned.tolist() for one in harmony
    ]


@settings(deadline=None, max_examples=EXAMPLES)
@given(talks())
def test_kinds_learned_apart_are_together_all_that_is_learned(talk: Talk) -> None:
    """With fewer kinds a document may end earlier, with one `<|return|>` more."""
    row = harmony_row(talk)
    parts = [
        sum(int(one.learned.sum()) for one in documents(row, only(kind)))
        for kind in ("analysis", "final", "calls")
    ]
    whole = sum(int(one.learned.sum()) for one in documents(row))
    returns = sum(learned_text(one).endswith("<|return|>") for one in documents(row))
    alone = sum(
        learned_text(one).endswith("<|return|>")
        for one in documents(row, only("final"))
    )

    assert sum(parts) - alone == whole - returns


def only(*kinds: str) -> CorpusSettings:
    return CorpusSettings(length=10_000, train_on=kinds, recipient_in=FORM)  # type: ignore[arg-type]


WEATHER = [
    m.system("low"),
    m.developer(tools=[m.ToolDescription("get_weather")]),
    m.user("Oslo?"),
    m.reasoning("A call."),
    m.preamble("I look."),
    m.tool_call("get_weather", "{}"),
    m.tool_result("get_weather", "grey"),
    m.reasoning("Known."),
    m.answer("Grey."),
]
CALL_TEXT = {
    "role": " to=functions.get_weather<|channel|>commentary",
    "channel": "<|channel|>commentary to=functions.get_weather",
}[FORM]
LEARNED: dict[tuple[str, ...], str] = {
    ("analysis",): "<|channel|>analysis<|message|>A call.<|end|>"
    "<|channel|>analysis<|message|>Known.<|end|>",
    ("final",): f"{PROMPTED}<|channel|>final<|message|>Grey.<|return|>",
    ("calls",): f"{PROMPTED}<|channel|>commentary<|message|>I look.<|end|>"
    f"{PROMPTED}{CALL_TEXT} <|constrain|>json<|message|>{{}}<|call|>",
}


@pytest.mark.parametrize("kinds", LEARNED, ids=",".join)
def test_train_on_chooses_messages_with_their_headers_and_ends(
    kinds: tuple[str, ...],
) -> None:
    row = harmony_row(Talk((), (tuple(WEATHER),)))
    [document] = documents(row, only(*kinds))

    assert learned_text(document) == LEARNED[kinds]


def test_a_document_ends_with_what_is_learned_last() -> None:
    row = harmony_row(Talk((), (tuple(WEATHER),)))
    [document] = documents(row, only("calls"))

    assert text(document).endswith("<|message|>{}<|call|>")


def test_a_call_after_a_call_does_not_learn_the_start_between_them() -> None:
    calls = [m.tool_call("a", "{}"), m.tool_call("b", "{}")]
    [document] = documents(harmony_row(Talk((m.user("Both."),), (tuple(calls),))))

    assert learned_text(document).count("<|start|>") == 0
    assert learned_text(document).count("<|call|>") == 2


def test_turns_without_analysis_share_a_document() -> None:
    turns = [[m.user(f"q{n}"), m.answer(f"f{n}")] for n in range(3)]
    [document] = documents(harmony_row(Talk((), tuple(map(tuple, turns)))))

    assert learned_text(document) == (
        "<|channel|>final<|message|>f0<|channel|>final<|message|>f1"
        "<|channel|>final<|message|>f2<|return|>"
    )


def test_analysis_of_a_finished_turn_is_learned_in_its_own_document() -> None:
    turns = [[m.user(f"q{n}"), m.reasoning(f"c{n}"), m.answer(f"f{n}")] for n in (1, 2)]
    first, second = documents(harmony_row(Talk((), tuple(map(tuple, turns)))))

    assert learned_text(first) == (
        f"<|channel|>analysis<|message|>c1<|end|>{PROMPTED}"
        "<|channel|>final<|message|>f1<|return|>"
    )
    assert "c1" not in text(second) and "f1<|end|>" in text(second)
    assert "f1" not in learned_text(second)


def test_a_message_of_weight_zero_is_shown_and_not_learned() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "wrong", "weight": 0},
            {"role": "user", "content": "q2"},
            {"role": "assistant", "content": "right", "weight": 1},
        ]
    }
    [document] = documents(row)

    assert "wrong" in text(document)
    assert learned_text(document) == "<|channel|>final<|message|>right<|return|>"


def test_of_a_prompt_and_completion_the_completion_is_learned() -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "f1"},
            {"role": "user", "content": "q2"},
        ],
        "completion": [{"role": "assistant", "thinking": "c2", "content": "f2"}],
    }
    [document] = documents(row)

    assert learned_text(document) == (
        f"<|channel|>analysis<|message|>c2<|end|>{PROMPTED}"
        "<|channel|>final<|message|>f2<|return|>"
    )


def test_a_pair_of_texts_is_plain_text_or_a_question_and_its_answer() -> None:
    row = {"prompt": "The sky is", "completion": " blue."}
    [plain] = documents(row)
    [chat] = documents(row, CorpusSettings(pairs="chat"))

    assert text(plain) == "The sky is blue.<|endoftext|>"
    assert learned_text(plain) == " blue.<|endoftext|>"
    assert learned_text(chat) == "<|channel|>final<|message|> blue.<|return|>"


def test_all_of_a_text_is_learned_but_its_first_token() -> None:
    [document] = documents({"text": "The sky is blue."})

    assert text(document) == "The sky is blue.<|endoftext|>"
    assert document.learned.tolist() == [False] + [True] * (len(document) - 1)


def test_a_long_text_is_divided_without_losing_a_token() -> None:
    words = " ".join(str(n) for n in range(100))
    [whole] = documents({"text": words})
    parts = documents({"text": words}, CorpusSettings(length=16))

    assert max(map(len, parts)) <= 16
    assert np.concatenate([part.ids for part in parts]).tolist() == whole.ids.tolist()
    assert all(part.learned[1:].all() for part in parts)


def test_a_long_conversation_is_refused_or_cut_at_its_end() -> None:
    row = harmony_row(Talk((), (tuple(WEATHER),)))
    [whole] = documents(row)
    [cut] = documents(row, CorpusSettings(length=30, too_long="cut", recipient_in=FORM))

    assert cut.ids.tolist() == whole.ids[:30].tolist()
    assert cut.full_tokens == len(whole)
    with pytest.raises(PromptError, match="more than 30: raise --length"):
        documents(row, CorpusSettings(length=30, recipient_in=FORM))


def test_the_effort_and_date_are_the_rows_own_else_the_settings() -> None:
    using = CorpusSettings(effort="high", date="2026-11-22")
    asked = {"role": "user", "content": "q"}, {"role": "assistant", "content": "f"}
    own = {"reasoning_effort": "low", "date": "2020-01-01", "messages": list(asked)}
    of_template = {"chat_template_kwargs": {"reasoning_effort": "low"}}
    texts = [
        text(documents(row, using)[0])
        for row in (list(asked), own, {**of_template, "messages": list(asked)})
    ]

    assert ["Reasoning: low" in one for one in texts] == [False, True, True]
    assert ["Current date: 2026-11-22" in one for one in texts] == [True, False, True]
