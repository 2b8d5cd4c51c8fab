"""Tokenizers written to a GGUF and read back."""

import json
from pathlib import Path

import gguf
import pytest
import tokenizers

from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.gguf import ARRAY
from mlx_gptoss_convert.write.gguf import make_gguf_plan
from mlx_gptoss_convert.write.gguf_header import encode_value
from tests.support.gguf_conversions import (
    to_gguf,
    to_mlx,
    write_source,
    write_tokenizer,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def test_the_tokenizer_comes_back(source: Path, tmp_path: Path) -> None:
    back = to_mlx(to_gguf(source, tmp_path / "out"), tmp_path / "back")
    text = "abc d ab 12 cab's\n <|end|> é"
    ours, theirs = (
        tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        for folder in (source, back)
    )
    assert theirs.encode(text).ids == ours.encode(text).ids
    assert theirs.decode(ours.encode(text).ids) == ours.decode(ours.encode(text).ids)
    assert theirs.get_vocab_size() == ours.get_vocab_size()


@pytest.mark.parametrize("as_folder", [True, False])
def test_another_tokenizer_may_be_given(
    source: Path, tmp_path: Path, as_folder: bool
) -> None:
    out = to_gguf(source, tmp_path / "out")
    given = tmp_path / "given"
    given.mkdir()
    write_tokenizer(given / "tokenizer.json", "gpt-2")
    path = given if as_folder else given / "tokenizer.json"
    opened = open_source(out, tokenizer=path)
    assert (
        opened.files.read("tokenizer.json") == (given / "tokenizer.json").read_bytes()
    )


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(
    source: Path,
) -> None:
    raw = json.loads((source / "tokenizer.json").read_text())
    raw["pre_tokenizer"] = {"type": "Whitespace"}
    (source / "tokenizer.json").write_text(json.dumps(raw))
    checkpoint = open_source(source).checkpoint
    with pytest.raises(ConversionError, match="--tokenizer-pre"):
        make_gguf_plan(checkpoint, RECIPES["lossless"])
    plan = make_gguf_plan(checkpoint, RECIPES["lossless"], pre="gpt-2")
    assert b"gpt-2" in plan.shards[0].header


def test_a_source_without_a_tokenizer_is_refused(source: Path) -> None:
    (source / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match="--tokenizer FILE"):
        make_gguf_plan(open_source(source).checkpoint, RECIPES["lossless"])


def test_a_list_of_words_is_written_as_the_judge_writes_it() -> None:
    assert encode_value(ARRAY, ["a", "bc"]) == gguf.GGUFWriter(
        None, "gpt-oss"
    )._pack_val(["a", "bc"], gguf.GGUFValueType.ARRAY, add_vtype=False)
