"""Import paths of version 0.1 that READMEs and examples showed still work."""

import json
import subprocess
import sys
from importlib import import_module

import pytest

MOVED = {
    "mlx_gptoss.experts.resident": ("SWISH_SLOPE",),
    "mlx_gptoss.hub": ("resolve",),
    "mlx_gptoss.mxfp4": ("encode",),
    "mlx_gptoss_convert.conversion": ("convert",),
    "mlx_gptoss_convert.divergence": ("Divergence",),
    "mlx_gptoss_convert.kl": ("choose_passages", "diverge"),
    "mlx_gptoss_convert.passages": ("Passage",),
    "mlx_gptoss_convert.recipe": ("RECIPES", "Recipe", "with_experts"),
    "mlx_gptoss_convert.source": ("Source",),
    "mlx_gptoss_convert.streamed": ("Streamed",),
    "mlx_gptoss_convert.verify": ("verify",),
}
UNMOVED = {
    "mlx_gptoss.checkpoint": ("Checkpoint", "open_checkpoint"),
    "mlx_gptoss.errors": ("GptOssError",),
    "mlx_gptoss.harmony.messages": ("Effort", "Message", "ToolDescription"),
    "mlx_gptoss.harmony.parse": ("Parser",),
    "mlx_gptoss.harmony.render": (
        "Piece",
        "Place",
        "Vocabulary",
        "drop_analysis",
        "render_messages",
        "training_pieces",
    ),
    "mlx_gptoss.memory": ("format_bytes",),
    "mlx_gptoss.server.app": ("create_app",),
    "mlx_gptoss.server.models": ("Models",),
    "mlx_gptoss_convert.plan": ("make_plan",),
}


CODE = f"""
import importlib, json, warnings

warnings.simplefilter("error")
found = {{}}
for path, names in {MOVED!r}.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        old = importlib.import_module(path)
    new = importlib.import_module(old.__spec__.name)
    missing = [name for name in names if not hasattr(old, name)]
    told = [str(one.message) for one in caught]
    found[path] = [old is new and old.__name__ != path, missing, told]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[bool, list[str], list[str]]]:
    """Import every moved path in one fresh process."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", MOVED)
def test_a_path_that_was_documented_gives_the_module_of_today(
    path: str, found: dict[str, tuple[bool, list[str], list[str]]]
) -> None:
    same, missing, warned = found[path]

    assert (same, missing) == (True, [])
    assert any(text.startswith(f"`{path}` is now `") for text in warned)


@pytest.mark.parametrize("path", UNMOVED)
def test_a_path_that_was_documented_and_stayed_has_its_names(path: str) -> None:
    module = import_module(path)

    assert [name for name in UNMOVED[path] if not hasattr(module, name)] == []
