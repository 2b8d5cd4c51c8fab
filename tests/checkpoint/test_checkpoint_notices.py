"""Notices about the small files beside the weights."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss import load
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.adapters import write_adapter
from mlx_gptoss.checkpoint.adapters.stored import CHAT_FORMAT, HARMONY
from mlx_gptoss.checkpoint.hub import DEMO, local_folder
from mlx_gptoss.checkpoint.notices import list_notices, list_warnings
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.cli import cli
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss_convert.read.companions import companion_files
from tests.checkpoint.test_tokenizer_settings import PADDING, TRUNCATION
from tests.support.adapters import random_updates

Json = dict[str, Any]
DEMO_FOLDER = local_folder(DEMO) or Path()
TEXT = "How many digits has 417 + 285? " * 200
LEFT = {"truncation": TRUNCATION | {"max_length": 2048}, "padding": PADDING}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo, its weights a link and its small files to be changed."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in DEMO_FOLDER.iterdir():
        if path.suffix == ".json":
            (copy / path.name).write_bytes(path.read_bytes())
        else:
            (copy / path.name).symlink_to(path)
    return copy


def edit(folder: Path, name: str, changes: Json) -> None:
    path = folder / name
    raw = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(raw | changes))


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(x) for x in arguments])
    assert result.exit_code == 0, result.stderr
    return result


def test_the_demo_needs_no_note() -> None:
    assert list_notices(open_checkpoint(DEMO_FOLDER)) == []


CASES: dict[str, tuple[str, Json, str]] = {
    "truncation": ("tokenizer.json", LEFT, "cuts prompts to 2,048 tokens"),
    "end-in-a-frame": (
        "generation_config.json",
        {"eos_token_id": [1529, 1533]},
        "`generation_config.json` ends answers at token 1533 (`<|end|>`), which is",
    ),
    "end-in-text": (
        "config.json",
        {"eos_token_id": 2},
        "`config.json` ends answers at token 2 (`#`), which is text",
    ),
    "end-beyond-the-rows": (
        "generation_config.json",
        {"eos_token_id": 200_002},
        "ends answers at token 200002, which does not exist",
    ),
    "temperature": (
        "generation_config.json",
        {"temperature": 0.6},
        "suggests `temperature` = 0.6: not read",
    ),
    "greedy": (
        "generation_config.json",
        {"do_sample": False},
        "suggests `do_sample` = False: not read",
    ),
    "length": (
        "generation_config.json",
        {"max_new_tokens": 20},
        "suggests `max_new_tokens` = 20: not read",
    ),
    "stop-strings": (
        "generation_config.json",
        {"stop_strings": ["###"]},
        "suggests `stop_strings` = ['###']: not read",
    ),
    "suppressed": (
        "generation_config.json",
        {"suppress_tokens": [5]},
        "suggests `suppress_tokens` = [5]: not read",
    ),
    "model-max-length": (
        "tokenizer_config.json",
        {"model_max_length": 2048},
        "`model_max_length` = 2,048: not read, the model supports 131,072 tokens",
    ),
    "bos": ("tokenizer_config.json", {"add_bos_token": True}, "nothing is added"),
    "chatml": (
        "tokenizer_config.json",
        {"chat_template": "<|im_start|>{{ messages[0].role }}"},
        "the chat template in `tokenizer_config.json` is not Harmony's",
    ),
    "chatml-json": (
        "chat_template.json",
        {"chat_template": "[INST] {{ messages[0].content }} [/INST]"},
        "the chat template in `chat_template.json` is not Harmony's",
    ),
    "plain-rope": (
        "config.json",
        {"rope_scaling": None},
        "plain rotary positions, without gpt-oss's YaRN",
    ),
    "beyond-the-rope": (
        "config.json",
        {"max_position_embeddings": 262_144},
        "allows 262,144 tokens, its rotary scaling reaches 131,072",
    ),
    "no-sliding-layers": (
        "config.json",
        {"layer_types": ["full_attention"] * 6, "sliding_window": None},
        "`layer_types` that are not gpt-oss's",
    ),
    "initial-length": (
        "config.json",
        {"initial_context_length": 8192},
        "`initial_context_length` = 8192: not read, its rotary settings say 4,096",
    ),
}


@pytest.mark.parametrize(("name", "changes", "says"), CASES.values(), ids=CASES)
def test_what_is_off_or_not_read_is_noted(
    folder: Path, name: str, changes: Json, says: str
) -> None:
    edit(folder, name, changes)

    found = list_notices(open_checkpoint(folder))

    assert any(says in note for note in found), found


def test_harmony_templates_need_no_note(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("<|start|>x<|channel|>final<|message|>")
    edit(folder, "tokenizer_config.json", {"chat_template": "old: <|im_start|>"})

    assert list_notices(open_checkpoint(folder)) == []


def test_damaged_files_that_nothing_reads_stop_nothing(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")

    assert list_notices(open_checkpoint(folder)) == []


def test_a_tokenizer_that_cannot_be_read_is_a_fault_of_inspect(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')

    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        list_notices(open_checkpoint(folder))


def test_a_folder_without_a_tokenizer_says_so(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()

    assert list_notices(open_checkpoint(folder)) == [
        "there is no `tokenizer.json`: only token ids can be used"
    ]


def test_a_tokenizer_with_more_tokens_than_rows_is_noted(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text())
    token = raw["added_tokens"][-1] | {"id": 1536, "content": "<tool>"}
    edit(folder, "tokenizer.json", {"added_tokens": [*raw["added_tokens"], token]})

    (note,) = list_notices(open_checkpoint(folder))

    assert "has token ids up to 1,536, the model up to 1,535: text" in note


def test_loading_says_what_may_make_answers_worse(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "chat_template.jinja").write_text("<|im_start|>")
    (folder / "adapter_model.safetensors").write_bytes(b"")

    with caplog.at_level(logging.WARNING), load(folder):
        pass

    assert caplog.messages == list_warnings(open_checkpoint(folder))
    assert [message[:30] for message in caplog.messages] == [
        "`adapter_model.safetensors` be",
        "the chat template in `chat_tem",
    ]


@pytest.mark.parametrize(
    ("given", "metadata", "warns"),
    [
        ("{}", {CHAT_FORMAT: HARMONY}, False),
        ("named={}", {CHAT_FORMAT: HARMONY}, True),  # until it is chosen, nothing is
        ("{}", {}, True),
    ],
)
def test_an_active_adapter_of_harmony_makes_the_template_no_matter(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    given: str,
    metadata: dict[str, str],
    warns: bool,
) -> None:
    (folder / "chat_template.jinja").write_text("<|im_start|>")
    config = open_checkpoint(folder).config
    mine, updates = tmp_path / "mine", random_updates(config, 1, targets=["lm_head"])
    write_adapter(updates, mine, config, metadata=metadata)

    with (
        caplog.at_level(logging.WARNING),
        load(folder, adapters=[given.format(mine)]),
    ):
        pass

    found = [message for message in caplog.messages if "chat template" in message]
    assert bool(found) is warns


def test_an_end_that_is_text_ends_no_answer(folder: Path) -> None:
    edit(folder, "config.json", {"eos_token_id": 2})
    edit(folder, "generation_config.json", {"eos_token_id": [2, 1533]})

    with load(folder) as runtime:
        stops = {runtime.tokenizer.decode([token]) for token in runtime.stop_tokens}

    assert stops == {"<|return|>", "<|call|>", "<|endoftext|>"}


def test_a_prompt_of_a_trained_folder_is_whole_and_inspect_says_why(
    folder: Path,
) -> None:
    edit(folder, "tokenizer.json", LEFT)
    whole = Tokenizer.open(DEMO_FOLDER).encode(TEXT)

    shown = run("inspect", folder).stdout

    assert len(whole) > 2048
    assert Tokenizer.open(folder).encode(TEXT) == whole
    assert "  note: `tokenizer.json` cuts prompts to 2,048 tokens" in shown
    assert len(json.loads(run("inspect", folder, "--json").stdout)["notes"]) == 2


def test_a_conversion_leaves_it_out_and_says_so(folder: Path, tmp_path: Path) -> None:
    edit(folder, "tokenizer.json", LEFT)
    made = tmp_path / "made"

    converted = run("convert", folder, made)

    assert "cuts prompts to 2,048 tokens (`truncation`): turned off" in converted.stderr
    raw = json.loads((made / "tokenizer.json").read_text())
    assert (raw["truncation"], raw["padding"]) == (None, None)
    before, after = (Tokenizer.open(path) for path in (folder, made))
    assert (after.encode(TEXT), after.notices) == (before.encode(TEXT), ())
    assert "turned off" not in run("verify", made).stderr
    edit(made, "tokenizer.json", LEFT)
    assert "note: `tokenizer.json` cuts prompts" in run("verify", made).stderr


@pytest.mark.parametrize("sort_keys", [False, True])
def test_a_given_tokenizer_is_mended_too(
    folder: Path, tmp_path: Path, sort_keys: bool
) -> None:
    given = tmp_path / "given.json"
    raw = json.loads((folder / "tokenizer.json").read_text()) | LEFT
    given.write_text(json.dumps(raw, sort_keys=sort_keys))

    run("convert", folder, tmp_path / "made", "--tokenizer", given)

    assert Tokenizer.open(tmp_path / "made").notices == ()


def test_a_setting_behind_the_words_of_a_tokenizer_is_found(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text())
    words = {key: raw["model"].pop(key) for key in ("vocab", "merges")}
    raw["model"] = {"type": raw["model"]["type"], **words, "dropout": 0.1}
    (folder / "tokenizer.json").write_text(json.dumps(raw))

    [note] = companion_files(folder).notes

    assert "cuts words at random (`dropout` 0.1): turned off" in note


def test_a_clean_tokenizer_is_copied_byte_for_byte(
    folder: Path, tmp_path: Path
) -> None:
    run("convert", folder, tmp_path / "made")

    copied = (tmp_path / "made" / "tokenizer.json").read_bytes()

    assert copied == (DEMO_FOLDER / "tokenizer.json").read_bytes()
