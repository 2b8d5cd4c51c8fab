"""The meter of the terminal shows how many tokens fit, not only the model's context."""

from types import SimpleNamespace
from typing import Any

import pytest

from mlx_gptoss.cli.chat.status import context_used


@pytest.mark.parametrize(
    ("used", "longest", "shown"),
    [
        (100, 768, "100 / 768 tokens"),
        (900, 768, "768 / 768 tokens, full"),
        (900, None, "900 tokens"),
    ],
)
def test_what_memory_holds_is_the_limit(
    used: int, longest: int | None, shown: str
) -> None:
    runtime = SimpleNamespace(context=131_072, longest_sequence=longest)
    conversation: Any = SimpleNamespace(used=used, runtime=runtime)

    assert context_used(conversation) == shown
