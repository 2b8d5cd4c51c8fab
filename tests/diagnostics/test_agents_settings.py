"""Settings of agents as people keep them: ours are put in, all else stays as it is."""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import AGENTS
from mlx_gptoss.diagnostics.agents.settings.edit import edit_text
from mlx_gptoss.diagnostics.agents.setup import prepare
from tests.support.settings_layouts import LAYOUTS
from tests.support.settings_readers import expected, read
from tests.support.settings_samples import SAMPLES

OWNED = (
    *("model", "openai-api", "experimental_bearer_token", "name", "base_url"),
    *("wire_api", "old", '"env": {}'),
)
"""What may stand in a line that is changed."""
OLD_VALUE = re.compile(r"[^\s:=]*[-\s]*old[^\w\s#]*|\*m|(?<=\|)\+(?=\s+z\Z)")
FIRST = Endpoint()
OTHER = Endpoint("http://localhost:9", "gpt-oss:20b", "se'c\"ret #1", 8192)
CASES = [(tool, name) for tool in AGENTS for name in SAMPLES[tool]]


def kind_of(tool: str, path: Path) -> str:
    return AGENTS[tool].files(path)[0].kind


def edit_of(tool: str) -> Callable[..., None]:
    return AGENTS[tool].files(Path())[0].edit


def set_up(tool: str, path: Path, endpoint: Endpoint = FIRST) -> str:
    (change, *_) = prepare(tool, endpoint, home=path.parent, file=path)
    change.write()
    return path.read_bytes().decode()


def plain(data: Any) -> str:
    """The data as a text that tells 1 from 1.0, without the times that Cline wants."""
    return repr(sorted_(data))


def sorted_(data: Any) -> Any:
    if isinstance(data, dict):
        names = sorted((name for name in data if name != "updatedAt"), key=str)
        return {name: sorted_(data[name]) for name in names}
    return [sorted_(item) for item in data] if isinstance(data, list) else data


def kept_lines(text: str) -> list[str]:
    return [line for line in lines_of(text) if not any(name in line for name in OWNED)]


def lines_of(text: str) -> list[str]:
    return text.split("\n")


def stand_in_order(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(any(stays(line, other) for other in rest) for line in few)


def stays(line: str, other: str) -> bool:
    """Whether a line is another, but for a comma when one more follows in JSON."""
    places = range(len(other))
    return line == other or line in (
        other[:at] + other[at + 1 :] for at in places if other[at] == ","
    )


@pytest.fixture
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / "settings"


@pytest.mark.parametrize(("tool", "name"), CASES)
def test_ours_is_put_in_and_every_other_byte_stays(
    tool: str, name: str, path: Path
) -> None:
    before = SAMPLES[tool][name]
    kind = kind_of(tool, path)
    path.write_bytes(before.encode())
    after = set_up(tool, path)
    wanted = expected(tool, read(kind, before), FIRST)
    assert plain(read(kind, after)) == plain(wanted)
    if before.count("\n") > 1:
        assert stand_in_order(kept_lines(before), lines_of(after)), after
    if "\r\n" in before:
        assert after.count("\r\n") == after.count("\n")
    assert after.startswith("\ufeff") == before.startswith("\ufeff")


@pytest.mark.parametrize(("tool", "name"), CASES)
def test_it_is_set_up_anew_for_another_server_and_back(
    tool: str, name: str, path: Path
) -> None:
    path.write_bytes(SAMPLES[tool][name].encode())
    kind = kind_of(tool, path)
    once = set_up(tool, path)
    assert prepare(tool, FIRST, home=path.parent, file=path)[0].after == once
    other = set_up(tool, path, OTHER)
    wanted = expected(tool, read(kind, once), OTHER)
    assert plain(read(kind, other)) == plain(wanted)
    back = set_up(tool, path)
    wanted = expected(tool, read(kind, other), FIRST)
    assert plain(read(kind, back)) == plain(wanted)


@pytest.mark.parametrize("tool", LAYOUTS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_layout_keeps_its_lines_and_gains_ours(
    tool: str, data: st.DataObject
) -> None:
    before = data.draw(LAYOUTS[tool])
    kind = kind_of(tool, Path())
    first, other = (partial(edit_of(tool), endpoint=end) for end in (FIRST, OTHER))
    once = edit_text(kind, before, first)
    assert plain(read(kind, once)) == plain(expected(tool, read(kind, before), FIRST))
    letters, rest = OLD_VALUE.sub("", before), iter(once)
    assert Counter(letters) <= Counter(once)
    if not 0 <= before.find("name: A") < before.find("name: demo"):  # ours goes first
        assert all(letter in rest for letter in letters), once
    assert once.count("\r\n") == ("\r\n" in before) * once.count("\n")
    assert edit_text(kind, once, first) == once
    again = edit_text(kind, once, other)
    assert plain(read(kind, again)) == plain(expected(tool, read(kind, once), OTHER))


KEYS = [
    *("on", "y", "null", "~", "12:30:45", "1_000", "0x1F", "1e5", "2001-01-01", "<<"),
    *(
        "a: b",
        "a #b",
        "- a",
        "{a}",
        "*a",
        "%a",
        "=",
        "'",
        '"',
        "\\n",
        "a\tb",
        "\x7f",
        "é😀",
    ),
]
"""Keys that YAML 1.1 or 1.2 would take for something else, and what needs quotes."""


@pytest.mark.parametrize("tool", AGENTS)
def test_a_key_of_any_kind_is_read_as_it_was_given(tool: str) -> None:
    kind = kind_of(tool, Path())
    for key in KEYS:
        end = Endpoint(key=key)
        text = edit_text(kind, "", partial(edit_of(tool), endpoint=end))
        assert plain(read(kind, text)) == plain(expected(tool, {}, end))
