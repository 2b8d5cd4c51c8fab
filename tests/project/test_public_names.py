"""`mlx_gptoss.__all__` lists the public names, each importable from its module."""

import inspect
import operator
import pydoc
import re
import subprocess
import sys
from typing import Any

import pytest

import mlx_gptoss


@pytest.mark.parametrize("name", mlx_gptoss.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    found = getattr(mlx_gptoss, name)

    assert isinstance(found, str) or found.__name__ == name


def test_dir_lists_the_public_names() -> None:
    assert dir(mlx_gptoss) == sorted(mlx_gptoss.__all__)


@pytest.mark.parametrize("method", ["send", "regenerate", "edit"])
def test_help_on_a_turn_names_the_type_of_its_events(method: str) -> None:
    text = pydoc.plain(pydoc.render_doc(getattr(mlx_gptoss.Chat, method)))

    assert "-> collections.abc.Generator[mlx_gptoss.harmony.events.Event]\n" in text


UNNAMED = {"self", "cls", "options", "text", "events", "turn", "call_id"}


@pytest.mark.parametrize("name", ["Chat", "AsyncChat", "Reply", "ReplyCall"])
def test_what_a_class_has_is_documented(name: str) -> None:
    thing = getattr(mlx_gptoss, name)
    public = [n for n in dir(thing) if not n.startswith("_")]
    members = [getattr(thing, n) for n in public]

    undocumented = [n for n, m in zip(public, members, strict=True) if not m.__doc__]
    fields = getattr(thing, "__dataclass_fields__", {})
    told = f"{thing.__doc__} "
    assert [n for n in undocumented if f"    {n}: " not in told] == []
    assert [n for n in fields if f"    {n}: " not in told] == []


@pytest.mark.parametrize("name", ["Chat", "Chat.ask", "Chat.send", "answer_all"])
def test_a_docstring_names_every_argument(name: str) -> None:
    thing = operator.attrgetter(name)(mlx_gptoss)
    given = set(inspect.signature(thing).parameters) - UNNAMED
    text = inspect.getdoc(thing) or ""

    assert [n for n in sorted(given) if not re.search(rf"\b{n}\b", text)] == []
    assert "Error" in text  # what it raises


def public_things() -> dict[str, Any]:
    """Return the public classes and functions, and what they define, by name."""
    found: dict[str, Any] = {}
    for name in mlx_gptoss.__all__:
        thing = getattr(mlx_gptoss, name)
        if isinstance(thing, str):
            continue
        found[name] = thing
        for kind in inspect.getmro(thing) if inspect.isclass(thing) else ():
            if kind.__module__.startswith("mlx_gptoss."):
                own = {n: m for n, m in vars(kind).items() if not n.startswith("_")}
                for member, value in own.items():
                    function = getattr(value, "__func__", value)  # of a class method
                    if inspect.isfunction(function) or isinstance(value, property):
                        found[f"{name}.{member}"] = function
    return found


PUBLIC = public_things()
# "Arguments are those of Chat", and so on.
DOCUMENTED_ELSEWHERE = {"AsyncChat", "answer_all_async", "Sessions"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_names_all_fields_and_arguments(name: str) -> None:
    thing = PUBLIC[name]
    text = inspect.getdoc(thing) or ""
    assert text
    if isinstance(thing, property) or name in DOCUMENTED_ELSEWHERE | {"GptOssError"}:
        return
    owner = PUBLIC[name.partition(".")[0]]
    told = f"{text} {inspect.getdoc(owner)}"
    given = set(inspect.signature(thing).parameters) - UNNAMED
    assert [n for n in sorted(given) if not re.search(rf"\b{n}\b", told)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute `Laod`"):
        _ = mlx_gptoss.Laod


def test_events_and_errors_come_without_starting_mlx() -> None:
    code = (
        "import sys; from mlx_gptoss import Answer, GptOssError; "
        "print([m for m in sys.modules if m.split('.')[0] == 'mlx'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
