"""The proof: constrained turns are well-formed whatever the model wants.

In a test run a few turns each;
`pytest -m soak -s tests/engine/test_constrained_turns.py` runs 1,000
at each temperature, half of them with tools, and prints the numbers.
"""

from collections.abc import Iterator
from itertools import cycle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.messages import ToolDescription
from tests.harmony.test_grammar import NAMES, SCHEMAS
from tests.support.adversary import adversary
from tests.support.fakes import byte_tokenizer
from tests.support.turns import FREE, SOME_TOOLS, Count, count_turns

FEW, MANY, MOST = 2, 500, 1000
QUESTIONS = (
    "What is 417 + 285?",
    "What is the weather in Oslo?",
    "Hello",
    "Which is larger, 12 or 21?",
    "Plot three points.",
    "Name three cities.",
)
TOKENIZER = byte_tokenizer()
ROWS = 300  # of the adversary: more than its vocabulary has tokens
CONTROL = [*TOKENIZER.specials.values(), 270, 299]


def sizes(few: int, many: int) -> list[object]:
    return [
        pytest.param(few, id="few"),
        pytest.param(many, id="many", marks=pytest.mark.soak),
    ]


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


def both(
    runtime: Runtime,
    turns: int,
    tools: tuple[ToolDescription, ...],
    params: SamplingParams,
    what: str,
) -> tuple[Count, Count]:
    """Count constrained and unconstrained turns, and print them side by side."""
    bound, free = (
        count_turns(
            runtime,
            cycle(QUESTIONS),
            turns,
            constraints=constraints,
            params=params,
            tools=tools,
        )
        for constraints in (Constraints(), FREE)
    )
    print(
        f"\n{what}, {turns} turns: malformed {bound.malformed} constrained, "
        f"{free.malformed} unconstrained; calls not valid {bound.invalid_calls} of "
        f"{bound.calls} and {free.invalid_calls} of {free.calls}; "
        f"cut off {bound.cut_off} and {free.cut_off}"
    )
    return bound, free


@pytest.mark.parametrize("turns", sizes(FEW, MANY))
@pytest.mark.parametrize("tools", [(), SOME_TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("temperature", [1.0, 1.3, 2.0])
def test_the_demo_model_cannot_write_a_malformed_header(
    demo: Runtime,
    temperature: float,
    tools: tuple[ToolDescription, ...],
    turns: int,
) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=120)
    what = f"temperature {temperature}, {'with' if tools else 'without'} tools"

    bound, _ = both(demo, turns, tools, params, what)

    assert (bound.turns, bound.malformed, bound.faults) == (turns, 0, [])
    assert bound.invalid_calls == 0


@pytest.mark.parametrize("turns", sizes(20, MOST))
@pytest.mark.parametrize("tools", [(), SOME_TOOLS], ids=["plain", "tools"])
def test_nor_can_a_model_that_tries_to(
    tools: tuple[ToolDescription, ...], turns: int
) -> None:
    params = SamplingParams(max_tokens=160)
    model = adversary(ROWS, CONTROL)
    with Runtime(model, tokenizer=TOKENIZER) as runtime:
        bound, free = both(runtime, turns, tools, params, "an adversary")

    assert (bound.malformed, bound.faults) == (0, [])
    assert free.malformed > 0.3 * turns
    assert bound.invalid_calls == 0
    assert bound.calls > 0 or not tools


SAID = ["functions.f", "python", "browser.search", "assistant", "final", "json", "to=x"]
# Private characters are marks of the judge's own.
ANY_LETTERS = st.text(
    st.characters(exclude_categories=["Cs", "Co"]), min_size=1, max_size=12
)
ODD_NAMES = ANY_LETTERS.filter(str.strip) | st.sampled_from(
    [*SAID, "<|end|>", "a.b", "工具"]
)
TREE = {"type": "object", "properties": {"more": {"$ref": "#"}, "name": {}}}
ARGUMENTS = st.dictionaries(NAMES, SCHEMAS, max_size=4).map(
    lambda fields: {
        "type": "object",
        "properties": fields,
        "required": sorted(fields)[:2],
    }
)
ODD_TOOLS = st.lists(
    st.builds(
        ToolDescription,
        ODD_NAMES,
        st.sampled_from(["", "\n", "Says <|end|>."]),
        st.none() | st.just(TREE) | ARGUMENTS,
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda tool: tool.wire_name,
)


def check_odd_tools(
    tools: list[ToolDescription], seed: int, choice: str, parallel: bool
) -> None:
    """Let an adversary call tools of any name and schema."""
    with Runtime(adversary(ROWS, CONTROL, seed=seed), tokenizer=TOKENIZER) as runtime:
        found = count_turns(
            runtime,
            cycle(QUESTIONS),
            turns=2,
            constraints=Constraints(tool_choice=choice, parallel_tool_calls=parallel),
            params=SamplingParams(max_tokens=160),
            tools=tuple(tools),
        )
    assert (found.malformed, found.faults, found.invalid_calls) == (0, [], 0)


@pytest.mark.parametrize(
    "examples", [8, pytest.param(300, marks=pytest.mark.soak)], ids=["few", "many"]
)
def test_tools_of_any_name_and_schema_are_called_as_they_are(examples: int) -> None:
    noisy = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    settings(max_examples=examples, deadline=None, suppress_health_check=noisy)(
        given(
            ODD_TOOLS,
            st.integers(0, 2**16),
            st.sampled_from(["auto", "required"]),
            st.booleans(),
        )(check_odd_tools)
    )()
