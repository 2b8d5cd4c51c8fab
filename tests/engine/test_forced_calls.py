"""A call that is demanded comes, and preambles cannot eat a turn.

`pytest -m soak -s tests/engine/test_forced_calls.py` lets the demo model take 600
turns after the result of a tool, where it would rather answer, and prints how
many had a call.
"""

from collections.abc import Iterator

import pytest

from mlx_gptoss.api.prompt import ConversationRequest, prepare_prompts
from mlx_gptoss.engine.guide import MAX_PREAMBLE_TOKENS, MAX_PREAMBLES
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.messages import (
    ToolDescription,
    developer,
    system,
    tool_call,
    tool_result,
    user,
)
from tests.support.fakes import token_ids
from tests.support.guided import (
    ANSWER,
    CALL,
    GUIDES,
    ROWS,
    TARGETS,
    THINK,
    TOKENIZER,
    generate_text,
    model_that_prefers,
)
from tests.support.submit import Submission

WEATHER = ToolDescription(
    "get_weather",
    "Gets the weather for a city.",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome", "Lima"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
TIME = ToolDescription("get_time", "Tells the time.")
SHORT = SamplingParams(temperature=0, max_tokens=120)
LONGER = SamplingParams(temperature=0, max_tokens=250)
LONG_ENOUGH = 600  # seconds, for a machine that has other things to do
BUSY = 16  # turns at once
PREAMBLE_HEADER = "<|channel|>commentary<|message|>"
PREAMBLE = PREAMBLE_HEADER + "I look.<|end|><|start|>assistant"


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


def with_a_call(runtime: Runtime, choice: str, seeds: range) -> int:
    """Count the turns after a tool's result in which a whole call came."""
    tools = (WEATHER, TIME)
    ask = ConversationRequest(
        conversation=[
            system("low", conversation_date="2026-11-22"),
            developer(tools=tools),
            user("What is the weather in Oslo?"),
            tool_call("get_weather", '{"city":"Oslo"}'),
            tool_result("get_weather", '{"temperature": 12, "sky": "clear"}'),
        ],
        tools=tools,
        params=SamplingParams(temperature=1, seed=seeds.start, max_tokens=300),
        constraints=Constraints(
            tool_choice=choice, parallel_tool_calls=False, max_reasoning_tokens=100
        ),
        choices=len(seeds),
    )
    asked = [
        (prompt, Submission(runtime, prompt.ids, prompt.params, guide=prompt.guide))
        for prompt in prepare_prompts(ask, runtime)
    ]
    for prompt, one in asked:
        for step in one.wait(LONG_ENOUGH):
            prompt.parser.feed(step)
        if not prompt.parser.has_called:
            print(repr(runtime.tokenizer.decode(one.tokens)))
    return sum(prompt.parser.has_called for prompt, _ in asked)


def test_a_demanded_call_comes_after_a_result_too(demo: Runtime) -> None:
    assert with_a_call(demo, "required", range(BUSY)) == BUSY


@pytest.mark.soak
@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_and_so_it_does_in_many_turns(demo: Runtime, choice: str) -> None:
    batches = [range(n, n + BUSY) for n in range(0, 300, BUSY)]
    found = sum(with_a_call(demo, choice, seeds) for seeds in batches)
    turns = sum(map(len, batches))
    print(f"\n{choice}: a call in {found} of {turns} turns")
    assert found == turns


@pytest.mark.parametrize("choice", ["required", "get_weather"])
@pytest.mark.parametrize(
    "wish",
    [
        PREAMBLE + CALL,
        PREAMBLE * 9 + CALL,
        THINK + PREAMBLE + THINK + CALL,
        THINK * 9 + CALL,
        THINK + ANSWER,
    ],
)
def test_a_demanded_call_follows_one_stretch_of_reasoning(
    choice: str, wish: str
) -> None:
    text, _ = generate_text(
        model_that_prefers(wish), Constraints(tool_choice=choice), params=SHORT
    )

    before, _, _ = text.partition("to=functions.")
    assert before != text
    assert before.count("<|message|>") <= 1
    assert "<|channel|>commentary<|message|>" not in text


def test_a_turn_has_a_few_preambles_and_no_more() -> None:
    few = PREAMBLE * MAX_PREAMBLES

    for wish in (few + CALL, few + ANSWER, THINK + few + CALL):
        assert generate_text(model_that_prefers(wish), params=LONGER)[0] == wish
    for end in (CALL, ANSWER):
        text, _ = generate_text(
            model_that_prefers(few + PREAMBLE * 3 + end), params=LONGER
        )
        rest = text.removeprefix(few)
        assert rest != text
        assert rest.startswith(("<|channel|>final<|message|>", " to=", "<|channel|>c"))
        assert "commentary<|message|>" not in rest


def test_reasoning_between_preambles_gives_no_more_of_them() -> None:
    turns = (PREAMBLE + THINK) * (MAX_PREAMBLES + 3)
    text, _ = generate_text(model_that_prefers(turns + ANSWER))

    assert text.count("<|channel|>commentary<|message|>") == MAX_PREAMBLES
    assert "<|channel|>final<|message|>" in text


def test_a_preamble_without_end_is_cut_and_the_answer_follows() -> None:
    counting = "".join(f"{n} " for n in range(2 * MAX_PREAMBLE_TOKENS))
    ids = token_ids(PREAMBLE + PREAMBLE_HEADER + counting, TOKENIZER)
    guide = GUIDES.create(Constraints(), TARGETS)
    assert guide is not None
    guide.mask(ROWS)
    read = 0
    while not guide.finish_details:
        guide.accept_token(ids[read])
        read += 1

    step = guide._automaton.step
    around = len(
        token_ids(PREAMBLE.replace("I look.", "") + PREAMBLE_HEADER, TOKENIZER)
    )
    assert read == MAX_PREAMBLE_TOKENS + around
    assert guide.finish_details == ("preamble_budget",)
    behind = "<|end|><|start|>assistant<|channel|>"
    for header, legal in (
        ("final<|message|>", True),
        ("commentary to=functions.get_time<|message|>", True),
        ("commentary<|message|>", False),
        ("analysis<|message|>", False),
    ):
        state: int | None = guide._state
        for token in token_ids(behind + header, TOKENIZER):
            state = None if state is None else step(state, token, text=False)
        assert (state is not None) == legal
