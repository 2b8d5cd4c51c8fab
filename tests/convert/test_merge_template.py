"""A merged model has no chat template that its adapter has made wrong."""

import json
from pathlib import Path

import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.adapters import open_adapter, write_adapter
from mlx_gptoss.checkpoint.adapters.stored import CHAT_FORMAT, HARMONY
from mlx_gptoss.checkpoint.notices import list_warnings
from mlx_gptoss_convert.merge.merge import merge
from tests.support.layout_writers import WRITERS
from tests.support.merging import (
    ATTENTION,
    CONFIG,
    RAW,
    TENSORS,
    adapter_folder,
    loras,
    prepared,
)

CHATML = "<|im_start|>{{ messages[0].role }}"
OTHER = {
    "chat_template.jinja": CHATML,
    "chat_template.json": json.dumps({"chat_template": CHATML}),
    "tokenizer_config.json": json.dumps({"chat_template": CHATML, "eos_token": "x"}),
}


def adapter(folder: Path, metadata: dict[str, str]) -> Path:
    plain = adapter_folder(folder / "plain", loras(ATTENTION[:1]))
    updates = dict(open_adapter(plain, CONFIG).updates())
    write_adapter(updates, folder / "mine", CONFIG, metadata=metadata)
    return folder / "mine"


@pytest.mark.parametrize("teaches", [True, False])
@pytest.mark.parametrize("name", OTHER)
def test_a_template_of_another_format_is_left_out_for_harmony(
    tmp_path: Path, name: str, teaches: bool
) -> None:
    source, dst = tmp_path / "source", tmp_path / "dst"
    WRITERS["hf"](source, RAW, TENSORS)
    (source / name).write_text(OTHER[name])
    ready = prepared(
        source, adapter(tmp_path, {CHAT_FORMAT: HARMONY} if teaches else {})
    )
    merge(ready, dst)

    assert (f"`{name}` is not Harmony's" in "".join(ready.notes)) is teaches
    assert bool(list_warnings(open_checkpoint(dst))) is not teaches
    if name == "tokenizer_config.json":
        assert json.loads((dst / name).read_text())["eos_token"] == "x"


def test_a_template_of_harmony_is_kept(tmp_path: Path) -> None:
    source, dst = tmp_path / "source", tmp_path / "dst"
    WRITERS["hf"](source, RAW, TENSORS)
    (source / "chat_template.jinja").write_text("<|channel|>")
    merge(prepared(source, adapter(tmp_path, {CHAT_FORMAT: HARMONY})), dst)

    assert (dst / "chat_template.jinja").read_text() == "<|channel|>"
