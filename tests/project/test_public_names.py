"""`mlx_gptoss.__all__` lists the public names, each importable from its module."""

import pydoc
import subprocess
import sys

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

    assert text.splitlines()[2].endswith(
        "-> collections.abc.Generator[mlx_gptoss.harmony.events.Event]"
    )


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
