"""docs/api.md is generated from the docstrings of the public API."""

import mlx_gptoss
from docs.generate import GROUPS, PAGE, page


def test_the_reference_is_what_the_docstrings_say() -> None:
    """To update it: python -m docs.generate."""
    assert PAGE.read_text() == page()


def test_every_public_name_is_in_the_reference() -> None:
    listed = {name for names in GROUPS.values() for name in names}

    assert set(mlx_gptoss.__all__) - listed == {"GptOssError", "__version__"}
