"""Request fields of other servers: the table of aliases, and what each one means."""

from pathlib import Path

import pytest

from mlx_gptoss.api.aliases import FIELD_ALIASES, OWN_FIELDS
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.ignored import IGNORED_HEADER, ignored_header
from mlx_gptoss.api.ignored_names import NAMEABLE_FIELDS, PROVIDER_BLOCKS
from mlx_gptoss.harmony.content_parts import PART_NAMES
from tests.support.spellings import APIS, CHAT, LIMITS, MESSAGES, TURNS, read

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "mlx_gptoss" / "api" / "README.md").read_text()


def test_the_readme_has_the_table() -> None:
    rows = [
        f"| {', '.join(f'`{path}`' for path in alias.paths)} "
        f"| {alias.servers} | {alias.meaning} |"
        for alias in FIELD_ALIASES
    ]
    assert "\n".join(rows) in README


def test_no_field_stands_in_the_table_twice() -> None:
    paths = [(path, one.meaning) for one in FIELD_ALIASES for path in one.paths]
    assert len({path for path, _ in paths}) == len(paths)
    own = {(path, means) for means, api in OWN_FIELDS.items() for path in api.values()}
    assert {means for _, means in paths} == set(OWN_FIELDS)
    assert {path for path, _ in paths} | {path for path, _ in own} >= {
        "reasoning_effort",
        "max_completion_tokens",
    }


def test_every_field_of_the_table_or_of_an_api_can_be_named() -> None:
    apis = (*APIS.values(), CompletionRequest)
    assert {path for one in FIELD_ALIASES for path in one.paths} <= NAMEABLE_FIELDS
    fields = {name for api in apis for name in api.model_fields}
    assert fields - {"model"} <= NAMEABLE_FIELDS  # which every API has


def test_parts_blocks_and_versions_of_tools_can_be_named() -> None:
    items = [*PART_NAMES, *PROVIDER_BLOCKS, "function_call_output"]
    tools = ["web_search_2025_08_26", "bash_20250124", "web_search_preview"]

    assert ignored_header(items=items) == {
        IGNORED_HEADER: f"items={','.join(sorted(set(items)))}"
    }
    named = {IGNORED_HEADER: "tools=bash,web_search,web_search_preview"}
    assert ignored_header(tools=tools) == named


@pytest.mark.parametrize("path", TURNS)
def test_a_limit_is_read_in_every_spelling(path: str) -> None:
    own = {"max_tokens": None} if path == MESSAGES else {}
    for count, most in ((3, 3), (-1, None)):
        for fields in (
            {"max_tokens": count},
            {"max_completion_tokens": count},
            {"max_output_tokens": count},
            {"max_new_tokens": count},
            {"n_predict": count},
            {"num_predict": count},
            {"options": {"num_predict": count}},
        ):
            request = read(path, **own | fields)
            assert (getattr(request, LIMITS[path]), request.ignored_fields) == (
                most,
                [],
            )


def test_limits_that_disagree_are_named() -> None:
    request = read(CHAT, max_completion_tokens=2, max_tokens=2, n_predict=9)

    assert (request.max_completion_tokens, request.ignored_fields) == (2, ["n_predict"])


@pytest.mark.parametrize("path", TURNS)
def test_sampling_is_read_in_every_spelling(path: str) -> None:
    options = {"temperature": 0, "top_k": -1, "top_p": 0.5, "min_p": 0.1, "seed": 3}
    request = read(path, options=options)

    found = {name: getattr(request, name) for name in options}
    assert found == options | {"top_k": 0}
    assert read(path, seed=-1).seed is None
    assert request.ignored_fields == []


def test_calls_one_by_one_are_not_asked_for_in_silence() -> None:
    for parallel, named in ((False, ["parallel_tool_calls"]), (True, [])):
        assert read(MESSAGES, parallel_tool_calls=parallel).ignored_fields == named
        assert read(CHAT, parallel_tool_calls=parallel).ignored_fields == []


def test_a_bias_may_be_a_list_of_pairs() -> None:
    for bias in ([[4, False], [5, 2.5]], {"4": False, "5": 2.5}):
        assert read(CHAT, logit_bias=bias).logit_bias == {"4": -100.0, "5": 2.5}


def test_choices_and_stops_are_read_in_other_spellings() -> None:
    request = read(CHAT, n_cmpl=2, stop_sequences=["x"])

    assert (request.n, request.stop) == (2, ["x"])
    for stop in ({"stop": ["x"]}, {"stop": "x"}, {"options": {"stop": "x"}}):
        assert read(MESSAGES, **stop).stop_sequences == ["x"]
