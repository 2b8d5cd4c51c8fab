"""How an adapter is given: `[NAME=]FOLDER|HUB_ID[:SCALE]`."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.engine.adapter_source import (
    AdapterSource,
    first_active,
    is_adapter_name,
    only_adapter,
    parse_adapter,
    parse_adapters,
)
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import ConfigError

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,20}", fullmatch=True)
PLACES = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(["./no/", "/no/", "no-owner/", "~/no/"]),
    st.lists(NAMES, min_size=1, max_size=3),
)
SCALES = st.floats(-1e6, 1e6, allow_nan=False)


@given(NAMES, PLACES, SCALES)
def test_all_three_parts_are_told_apart(name: str, place: str, scale: float) -> None:
    found = parse_adapter(f"{name}={place}:{scale!r}")

    assert found == AdapterSource(name, place, scale, named=True)


@given(PLACES)
def test_without_a_name_it_has_that_of_its_folder(place: str) -> None:
    found = parse_adapter(place)

    assert found == AdapterSource(place.rpartition("/")[2], place, 1.0, named=False)


@given(st.text(max_size=40))
def test_any_text_is_an_adapter_or_a_named_error(text: str) -> None:
    try:
        found = parse_adapter(text)
    except ConfigError as error:
        assert "\n" not in str(error).replace(text, "")
        return
    assert is_adapter_name(found.name) and found.place and math.isfinite(found.scale)
    assert found.place in text


def test_a_folder_of_that_spelling_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("v:2", "a=b", "c=d:0.5"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    assert parse_adapter("x=./v:2") == AdapterSource("x", "./v:2")
    assert parse_adapter("x=./v:2:0.5") == AdapterSource("x", "./v:2", 0.5)
    assert parse_adapter("x=a=b") == AdapterSource("x", "a=b")
    assert parse_adapter("x=./c=d:0.5") == AdapterSource("x", "./c=d:0.5")


@pytest.mark.parametrize("given", ["fr=./v:2", "fr=a/b:.5", "fr=a/b:-1", "fr=b:1e-3"])
def test_what_looks_like_a_scale_is_one(given: str) -> None:
    assert parse_adapter(given).scale == float(given.rpartition(":")[2])


@pytest.mark.parametrize("given", ["./v:two", "./v:", "./v:1,5", "./v: 1"])
def test_what_does_not_look_like_a_scale_is_part_of_the_folder(given: str) -> None:
    assert parse_adapter(f"x={given}") == AdapterSource("x", given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "names no folder"),
        ("x=", "names no folder"),
        ("=./x", "is no name"),
        ("a b=./x", "is no name"),
        ("./a b", "gives it no name"),
        ("x=./x:1e999", "not finite"),
    ],
)
def test_what_is_no_adapter_is_named(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_adapter(given)


def test_a_folder_without_a_name_of_its_own_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "french").mkdir()
    monkeypatch.chdir(tmp_path / "french")

    assert parse_adapter(".").name == "french"
    assert parse_adapter("..").name == tmp_path.name


def test_two_adapters_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two adapters are named `x`"):
        LoadOptions(adapters=["a/x", "x=b/y"])


def test_the_one_without_a_name_is_active() -> None:
    assert first_active(parse_adapters(["a/x", "y=a/y"])) == "x"
    assert first_active(parse_adapters(["x=a/x"])) is None
    assert first_active(parse_adapters(["a/x", "a/y"])) is None
    assert first_active(()) is None


def test_where_none_can_be_chosen_later_a_single_one_answers() -> None:
    assert only_adapter(parse_adapters(["x=a/x"])) == "x"
    assert only_adapter(parse_adapters(["a/x", "y=a/y"])) == "x"
    assert only_adapter(()) is None
    with pytest.raises(ConfigError, match="one adapter answers"):
        only_adapter(parse_adapters(["x=a/x", "y=a/y"]))


def test_options_take_one_adapter_or_several_as_text_or_path() -> None:
    assert LoadOptions(adapters="a/x").adapters == ("a/x",)
    path = Path("a/x")
    assert LoadOptions(adapters=path).adapters == ("a/x",)  # pyright: ignore
    assert LoadOptions(adapters=["a/x", Path("b")]).adapters == ("a/x", "b")
