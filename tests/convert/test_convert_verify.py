from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.cli import cli
from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.measure.report import VerificationReport
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.write.conversion import convert
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.layout_writers import AFFINE, DENSE, WRITERS, write_hf

CONFIG = hf_config(num_hidden_layers=2, intermediate_size=128)
TENSORS = random_tensors(CONFIG, seed=5)
EXPERT_BYTES = sum(
    tensor.nbytes
    for name, tensor in TENSORS.items()
    if name.endswith(("_blocks", "_scales"))
)

# Share of the rms of Gaussian rows; see convert/README.md.
ERRORS = {"q8": 0.006, "q6": 0.023, "q4": 0.09}


def converted(tmp_path: Path, layout: str = "hf", recipe: str = "lossless") -> Path:
    WRITERS[layout](tmp_path / "source", CONFIG, TENSORS)
    plan = make_plan(open_checkpoint(tmp_path / "source"), RECIPES[recipe])
    convert(plan, tmp_path / "made")
    return tmp_path / "made"


def damage(folder: Path, name: str, *, mask: int = 0x01) -> None:
    """Change the first byte of a tensor and nothing else."""
    tensor = open_checkpoint(folder).tensors[name]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.offset)
        byte = file.read(1)[0]
        file.seek(tensor.offset)
        file.write(bytes([byte ^ mask]))


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_proven_against_its_source(tmp_path: Path, layout: str) -> None:
    report = verify(converted(tmp_path, layout), tmp_path / "source")
    assert report.faults == []
    assert report.digests == len(open_checkpoint(tmp_path / "made").tensors)
    if layout in DENSE:  # originally MXFP4, so nothing is lost
        found = report.errors["experts"].summary()
        assert (report.expert_bytes, found["max"]) == (0, 0)
    elif layout not in AFFINE:
        assert report.expert_bytes == EXPERT_BYTES


@pytest.mark.parametrize("recipe", ERRORS)
def test_the_error_of_the_rest_is_that_of_its_bits(tmp_path: Path, recipe: str) -> None:
    report = verify(converted(tmp_path, "hf", recipe), tmp_path / "source")
    found = {kind: error.summary() for kind, error in report.errors.items()}
    kinds = ("embed", "lm_head", "q", "k", "v", "o")
    assert report.faults == []
    assert all(0 < found[kind]["relative_rms"] < ERRORS[recipe] for kind in kinds)
    untouched = ("router", "norms", "sinks", "biases")
    assert [found[kind]["max"] for kind in untouched] == [0] * 4


def test_a_changed_expert_byte_is_found_twice(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    damage(folder, "model.layers.1.mlp.experts.down_proj.weight")
    report = verify(folder, tmp_path / "source")
    assert report.faults == [
        "`model.layers.1.mlp.experts.down_proj_blocks` is not what `conversion.json` "
        "says was written",
        "`model.layers.1.mlp.experts.down_proj` weight of expert 0 differs from the "
        "source, first in row 0",
    ]


def test_a_changed_dense_matrix_is_found_without_a_journal(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    (folder / "conversion.json").unlink()
    damage(folder, "lm_head.weight")
    report = verify(folder, tmp_path / "source")
    assert report.faults == ["`lm_head` differs from the source, stored alike"]


def test_another_matrix_in_the_place_of_a_quantized_one_is_found(
    tmp_path: Path,
) -> None:
    folder = converted(tmp_path, recipe="q4")
    tensors = dict(TENSORS)
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[name] = np.roll(tensors[name], 1, axis=0)
    write_hf(tmp_path / "other", CONFIG, tensors)
    faults = verify(folder, tmp_path / "other").faults
    assert len(faults) == 1
    assert faults[0].startswith("`model.layers.0.self_attn.k_proj` has the cosine")


def test_values_that_are_not_numbers_are_found(tmp_path: Path) -> None:
    tensors = dict(TENSORS)
    name = "model.layers.0.mlp.experts.down_proj_scales"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 2, 1] = 255
    write_hf(tmp_path / "source", CONFIG, tensors)
    faults = verify(tmp_path / "source").faults
    assert len(faults) == 1
    assert "not finite" in faults[0]


def test_a_checkpoint_of_other_sizes_is_no_source(tmp_path: Path) -> None:
    other = CONFIG | {"swiglu_limit": 6.5}
    write_hf(tmp_path / "other", other, TENSORS)
    with pytest.raises(ConversionError, match="`swiglu_limit` = 7"):
        verify(converted(tmp_path), tmp_path / "other")


def test_progress_ends_with_everything_read(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(
        converted(tmp_path),
        tmp_path / "source",
        progress=lambda done, total, name: seen.append((done, total)),
    )
    assert seen[-1][0] <= seen[-1][1]
    assert max(done / total for done, total in seen) == 1


def test_an_empty_report_is_sound() -> None:
    assert VerificationReport().is_sound


def test_verify_prints_a_table_and_keeps_the_report(tmp_path: Path) -> None:
    folder = converted(tmp_path, recipe="q8")
    result = CliRunner().invoke(
        cli, ["verify", str(folder), "--against", str(tmp_path / "source")]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "all is as it should be"
    assert (folder / "report.json").is_file()


def test_verify_fails_on_a_fault(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    damage(folder, "model.norm.weight")
    result = CliRunner().invoke(cli, ["verify", str(folder)])
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 2)
    assert "`model.norm.weight` is not what" in result.stderr
