"""GGUFs as llama.cpp, Ollama and people's quantizing tools write them, converted.

Written by the package `gguf`; what they decode to is judged by it, too.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.cli import cli
from mlx_gptoss.errors import CheckpointError, ConversionError, NeedsConversionError
from mlx_gptoss.format.mxfp4 import decode
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import find_gguf_files, open_source
from mlx_gptoss_convert.read.gguf_decoders import DECODERS
from mlx_gptoss_convert.read.gguf_types import SUPERBLOCK, TYPES
from mlx_gptoss_convert.steps.affine import from_float32
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE, make_gguf_plan
from tests.convert.test_convert import expert_bytes, raw_tensors
from tests.support import checkpoints, layout_writers
from tests.support.foreign_ggufs import (
    EXPERTS,
    MATRICES,
    O_PROJ,
    renumbered,
    rewrite,
    types,
    write_for_ollama,
)
from tests.support.gguf_conversions import to_gguf, to_hf, to_mlx, write_tokenizer

DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
CONFIG = checkpoints.hf_config(
    num_hidden_layers=2, intermediate_size=128, num_attention_heads=4
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=12)
LONG = [entry.name for entry in TYPES if entry.block == SUPERBLOCK]
SHORT = [name for name in DECODERS if name not in LONG]
QUICK = ("Q5_1", "IQ4_NL", "Q4_K")
MATRIX_NAMES = {
    "lm_head": "output",
    "model.embed_tokens": "token_embd",
    "model.layers.1.self_attn.q_proj": "blk.1.attn_q",
    "model.layers.0.self_attn.o_proj": "blk.0.attn_output",
}


def slowly(*names: str) -> list:
    """Mark all but the quick ones as soak."""
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.soak)
        for name in names
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "source"
    layout_writers.WRITERS["hf"](folder, CONFIG, TENSORS)
    write_tokenizer(folder / "tokenizer.json", "gpt-4o")
    return folder


@pytest.fixture(scope="module")
def ours(source: Path) -> Path:
    return to_gguf(source, source.parent / "gguf") / FILE


def expert_values(tensors: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Decode every block: some have two spellings, with different scales."""
    found = {}
    for name, blocks in tensors.items():
        if name.endswith("_blocks"):
            scales = np.frombuffer(tensors[name[:-6] + "scales"], np.uint8)
            nibbles = np.frombuffer(blocks, np.uint8).reshape(-1, 16)
            found[name] = decode(nibbles, scales)
    return found


def floats_by_judge(path: Path, name: str) -> np.ndarray:
    tensor = next(x for x in gguf.GGUFReader(path).tensors if x.name == name)
    return dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.parametrize("kind", slowly(*SHORT, *LONG))
def test_matrices_of_every_type_become_what_the_package_decodes(
    ours: Path, tmp_path: Path, kind: str
) -> None:
    names = O_PROJ if kind in LONG else MATRICES
    theirs = rewrite(ours, tmp_path / "theirs.gguf", retype=types(kind, names))
    made = to_mlx(theirs, tmp_path / "made")
    found = raw_tensors(made)
    experts = expert_bytes(TENSORS)
    assert {name: found[name] for name in experts} == experts
    for name, stored in MATRIX_NAMES.items():
        exact = from_float32(floats_by_judge(theirs, f"{stored}.weight"), "BF16")
        assert found[f"{name}.weight"] == exact.tobytes(), name
    assert f"dequantize from {kind} to bf16" in (made / "README.md").read_text()
    report = verify(made, theirs)
    assert report.faults == []
    assert report.errors["o"].largest == 0


def test_what_is_kept_is_compared_and_what_is_requantized_measured(
    ours: Path, tmp_path: Path
) -> None:
    theirs = rewrite(ours, tmp_path / "theirs.gguf", retype=types("Q4_K", O_PROJ))
    made = to_mlx(theirs, tmp_path / "made", "q8")
    assert (
        "dequantize from Q4_K, quantize to 8 bits" in (made / "README.md").read_text()
    )
    report = verify(made, theirs)
    assert report.faults == []
    assert 0 < report.errors["o"].largest < 0.1


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32", "Q8_0"])
def test_experts_that_were_mxfp4_before_come_back_exactly(
    ours: Path, tmp_path: Path, kind: str
) -> None:
    theirs = rewrite(ours, tmp_path / "theirs.gguf", retype=types(kind, EXPERTS))
    found = raw_tensors(to_mlx(theirs, tmp_path / "made"))
    np.testing.assert_equal(expert_values(found), expert_values(expert_bytes(TENSORS)))
    (note,) = open_source(theirs).notes
    assert f"6 as {kind}" in note


@pytest.mark.parametrize("kind", slowly("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"))
def test_other_experts_are_decoded_and_encoded_with_a_word(
    ours: Path, tmp_path: Path, kind: str
) -> None:
    theirs = rewrite(ours, tmp_path / "theirs.gguf", retype=types(kind, EXPERTS))
    made = to_mlx(theirs, tmp_path / "made")
    report = verify(made, theirs)
    assert report.faults == []
    assert 0 < report.errors["experts"].summary()["relative_rms"] < 0.12
    (note,) = open_source(theirs).notes
    assert "what either lost is not restored" in note
    assert "could not be kept exactly" in (made / "README.md").read_text()


def test_gate_and_up_of_different_types_are_converted_apart(
    ours: Path, tmp_path: Path
) -> None:
    gates = re.compile(r"blk\.\d+\.ffn_gate_exps\.weight")
    theirs = rewrite(ours, tmp_path / "theirs.gguf", retype=types("Q8_0", gates))
    with pytest.raises(ConversionError, match="use `--layout split`"):
        to_mlx(theirs, tmp_path / "packed")
    report = verify(to_mlx(theirs, tmp_path / "made", experts="split"), theirs)
    assert report.faults == []


@pytest.mark.parametrize("fused", [False, True])
def test_a_blob_of_ollama_gives_every_byte_back(
    source: Path, ours: Path, tmp_path: Path, fused: bool
) -> None:
    blob = write_for_ollama(ours, tmp_path / f"sha256-{'a' * 64}", fused=fused)
    back = to_hf(blob, tmp_path / "back")
    assert raw_tensors(back) == raw_tensors(source)
    report = verify(to_mlx(blob, tmp_path / "made", "q8"), blob)
    assert report.faults == []
    assert report.expert_bytes == sum(map(len, expert_bytes(TENSORS).values()))


def test_ollama_s_vocabulary_has_its_padding_taken_off(
    ours: Path, tmp_path: Path
) -> None:
    fields = gguf.GGUFReader(ours).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    unused = [n for n, kind in enumerate(kinds) if kind == 5]
    assert unused
    for place, n in enumerate(unused):
        tokens[n], kinds[n] = f"[PAD{place}]", 4
    array = gguf.GGUFValueType.ARRAY
    changed = {
        "tokenizer.ggml.tokens": (tokens, array, gguf.GGUFValueType.STRING),
        "tokenizer.ggml.token_type": (kinds, array, gguf.GGUFValueType.INT32),
        "tokenizer.ggml.eos_token_ids": ([7, 8], array, gguf.GGUFValueType.INT32),
    }
    padded = rewrite(ours, tmp_path / "padded.gguf", metadata=changed)
    blob = write_for_ollama(padded, tmp_path / "blob")
    files = open_source(blob).files
    vocabulary = files.read("tokenizer.json") or b""
    assert b"[PAD" not in vocabulary
    assert vocabulary == open_source(ours).files.read("tokenizer.json")
    assert open_source(blob).checkpoint.config.eos_token_ids[:3] == (2, 7, 8)
    assert b"[PAD0]" in (open_source(padded).files.read("tokenizer.json") or b"")


def test_llama_cpps_older_name_of_a_norm_is_known(ours: Path, tmp_path: Path) -> None:
    theirs = rewrite(
        ours,
        tmp_path / "theirs.gguf",
        rename=lambda name: name.replace("post_attention_norm", "ffn_norm"),
    )
    assert open_source(theirs).checkpoint.config.num_hidden_layers == 2


def test_what_is_not_read_is_named(ours: Path, tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(CheckpointError) as raised:
            open_source(path)
        return str(raised.value)

    path = tmp_path / "theirs.gguf"
    experts = "blk.0.ffn_up_exps.weight"
    for number, words in (
        (18, "is stored as IQ3_XXS, readable are F32, F16, BF16, MXFP4, Q4_0"),
        (35, "is stored as TQ2_0"),
        (99, "is stored as ggml type 99, which is unknown here"),
    ):
        path.write_bytes(renumbered(ours.read_bytes(), [experts], number))
        assert words in refusal(path)
        assert "use another GGUF of this model" in refusal(path)
    for kind, words in (("adapter", "is an adapter (LoRA)"), ("imatrix", "importance")):
        said = {"general.type": (kind, gguf.GGUFValueType.STRING, None)}
        rewrite(ours, path, metadata=said)
        assert words in refusal(path)
    fused = write_for_ollama(ours, tmp_path / "fused", fused=True)
    raw = fused.read_bytes().replace(b"gptoss", b"gpt-os")
    path.write_bytes(raw)
    assert "has the architecture 'gpt-os'" in refusal(path)
    big = ours.read_bytes()
    path.write_bytes(big[:4] + big[4:8][::-1] + big[8:])
    assert "for big-endian machines" in refusal(path)


def test_experts_that_llama_cpp_fused_are_refused(ours: Path, tmp_path: Path) -> None:
    """They have all gate rows before all up rows, not in turn as Ollama's."""
    theirs = rewrite(
        ours,
        tmp_path / "theirs.gguf",
        rename=lambda name: name.replace("ffn_gate_exps", "ffn_gate_up_exps"),
    )
    with pytest.raises(CheckpointError, match=r"`--fuse-gate-up-exps` of llama\.cpp"):
        open_source(theirs)


def test_a_folder_of_several_models_lists_them_with_sizes(
    ours: Path, tmp_path: Path
) -> None:
    for name in ("a-Q4_K_M.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        shutil.copy(ours, tmp_path / name)
    shutil.copy(ours, tmp_path / "mmproj-a.gguf")
    with pytest.raises(CheckpointError) as raised:
        open_source(tmp_path)
    first, *rest = str(raised.value).splitlines()
    assert "has 2 models as GGUF: give one file" in first
    assert [line.split()[0].rpartition("/")[2] for line in rest] == [
        "a-Q4_K_M.gguf",
        "b-00001-of-00002.gguf",
    ]


def test_a_gguf_beside_the_config_of_its_source_is_read(
    ours: Path, tmp_path: Path
) -> None:
    """As in a copy of `unsloth/gpt-oss-20b-GGUF`, and its split files in a folder."""
    shutil.copy(ours, tmp_path / "a-Q8_0.gguf")
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}')
    assert open_source(tmp_path).checkpoint.files == (tmp_path / "a-Q8_0.gguf",)
    with pytest.raises(NeedsConversionError, match="holds a GGUF, which is not run"):
        resolve(str(tmp_path))
    (tmp_path / "Q8_0").mkdir()
    inside = shutil.move(tmp_path / "a-Q8_0.gguf", tmp_path / "Q8_0")
    assert open_source(tmp_path).checkpoint.files == (Path(inside),)
    (tmp_path / "model.safetensors").touch()
    assert find_gguf_files(tmp_path) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo as one of our GGUFs."""
    opened, dst = open_source(DEMO), tmp_path_factory.mktemp("demo") / "gguf"
    convert(
        make_gguf_plan(
            opened.checkpoint, RECIPES["lossless"], files=opened.files, pre="gpt-4o"
        ),
        dst,
    )
    return dst / FILE


def answer(model: Path) -> str:
    words = ["generate", "-m", str(model), "--temperature", "0", "What is 417 + 285?"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def converted(path: Path, dst: Path) -> Path:
    result = CliRunner().invoke(cli, ["convert", str(path), str(dst)])
    assert result.exit_code == 0, result.stderr
    checked = CliRunner().invoke(cli, ["verify", str(dst), "--against", str(path)])
    assert checked.exit_code == 0, checked.stderr
    return dst


def test_the_demo_computes_out_of_ollama_s_blob(demo: Path, tmp_path: Path) -> None:
    blob = write_for_ollama(demo, tmp_path / f"sha256-{'b' * 64}")
    assert "702" in answer(converted(blob, tmp_path / "made"))


FORMS = {
    **{f"matrices-{kind}": types(kind, MATRICES) for kind in SHORT},
    **{f"matrices-{kind}": types(kind, O_PROJ) for kind in LONG},
    **{f"matrices-{kind}": types(kind, MATRICES) for kind in ("F32", "F16", "BF16")},
    **{f"experts-{kind}": types(kind, EXPERTS) for kind in ("F32", "F16", "BF16")},
    **{
        f"experts-{kind}": types(kind, EXPERTS)
        for kind in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
    },
}


# The package's own values of these give the demo another answer, too.
TOO_ROUGH = ("matrices-Q4_1", "experts-IQ4_NL")


def as_floats(name: str, found: Kind) -> Kind:
    """Store what the package decodes, rounded to bfloat16, by the package."""
    return found if found in (Kind.MXFP4, Kind.F32, Kind.F16) else Kind.BF16


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
def test_the_demo_computes_out_of_every_form(
    demo: Path, tmp_path: Path, form: str
) -> None:
    theirs = rewrite(demo, tmp_path / "theirs.gguf", retype=FORMS[form])
    made = converted(theirs, tmp_path / "made")
    if form not in TOO_ROUGH:
        assert "702" in answer(made)
    floats = rewrite(theirs, tmp_path / "floats.gguf", retype=as_floats)
    plain = to_mlx(floats, tmp_path / "plain", "q8")
    assert raw_tensors(made) == raw_tensors(plain)
    if form.startswith("matrices"):
        before, after = raw_tensors(to_hf(demo, tmp_path / "hf")), raw_tensors(made)
        experts = [name for name in before if name.endswith(("_blocks", "_scales"))]
        assert experts
        assert {n: after[n] for n in experts} == {n: before[n] for n in experts}


@pytest.mark.soak
def test_the_demo_computes_out_of_the_first_form_of_ollama(
    demo: Path, tmp_path: Path
) -> None:
    blob = write_for_ollama(demo, tmp_path / "blob", fused=True)
    assert "702" in answer(converted(blob, tmp_path / "made"))


@pytest.mark.soak
def test_the_demo_computes_out_of_two_parts(demo: Path, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(demo)
    names = [tensor.name for tensor in reader.tensors]
    parts = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for path, left_out in zip(parts, (names[1::2], names[::2]), strict=True):
        rewrite(demo, path, drop=left_out, retype=types(Kind.Q8_0.name, MATRICES))
    assert "702" in answer(converted(parts[0], tmp_path / "made"))


MEASURED = """
import sys
from pathlib import Path
from mlx_gptoss.diagnostics.bench.peak import peak_rss
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.plan.estimates import MAX_MEMORY, peak_bytes
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source

opened = open_source(Path(sys.argv[1]))
plan = make_plan(opened.checkpoint, RECIPES["q8"], files=opened.files)
before = peak_rss()
convert(plan, Path(sys.argv[2]))
print(peak_rss() - before, peak_bytes(plan), MAX_MEMORY)
"""


@pytest.mark.soak
def test_memory_stays_below_what_was_said_for_experts_that_are_decoded(
    tmp_path: Path,
) -> None:
    """Experts as large as gpt-oss's: 33 MB each in float32, 66 MB gate and up."""
    config = checkpoints.hf_config(
        num_hidden_layers=1,
        hidden_size=2880,
        intermediate_size=2880,
        num_local_experts=4,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    tensors = checkpoints.random_tensors(config, seed=13)
    layout_writers.WRITERS["hf"](tmp_path / "source", config, tensors)
    write_tokenizer(tmp_path / "source" / "tokenizer.json", "gpt-4o")
    ours = to_gguf(tmp_path / "source", tmp_path / "ours") / FILE
    path = rewrite(ours, tmp_path / "theirs.gguf", retype=types("Q5_1", EXPERTS))
    path = rewrite(path, tmp_path / "both.gguf", retype=types("Q4_K", O_PROJ))
    command = [sys.executable, "-c", MEASURED, path, tmp_path / "made"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    growth, bound, limit = map(int, done.stdout.split())
    assert growth < bound < limit
