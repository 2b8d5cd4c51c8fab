"""What PEFT and mlx-lm themselves save is read, and what is written they read."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file

from mlx_gptoss.checkpoint.adapters import (
    WeightUpdate,
    open_adapter,
    write_adapter,
)
from mlx_gptoss.format.config import ModelConfig
from tests.support.adapter_files import (
    Lora,
    all_paths,
    delta,
    random_loras,
    write_peft,
)
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.layout_writers import WRITERS
from tests.support.peft_goldens import CASES, CONFIG, make, probe

GOLDEN = Path(__file__).parents[1] / "golden" / "peft"
ROUNDING = 2e-5  # PEFT's sums are float32


def check_golden(folder: Path) -> None:
    """Compare the gains that are read with those that PEFT merged."""
    expected = load_file(folder / "expected.safetensors")
    stored = open_adapter(folder, ModelConfig.from_dict(hf_config(**CONFIG)))
    assert set(stored.paths) == set(expected)
    for path, update in stored.updates():
        a, b = update.a.astype(np.float64), update.b.astype(np.float64)
        gained = (probe(a.shape[-2]) @ a)[..., None, :] @ b
        found, wanted = gained.squeeze(-2), expected[path]
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max()
        )


@pytest.mark.parametrize("case", CASES)
def test_what_peft_saved_is_what_peft_merged(case: str) -> None:
    check_golden(GOLDEN / case)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # of PEFT and transformers
@pytest.mark.parametrize("case", CASES)
def test_what_the_installed_peft_saves_is_what_it_merges(
    case: str, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="see tests/support/peft_goldens.py")
    make(case, tmp_path)
    check_golden(tmp_path)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # of PEFT and transformers
@pytest.mark.parametrize("skipped", [0, 1, 2, 3, 4, 5])
def test_the_installed_peft_reads_what_is_written(skipped: int, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="see tests/support/peft_goldens.py")
    import torch  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from transformers import GptOssConfig, GptOssForCausalLM

    config = ModelConfig.from_dict(hf_config(**CONFIG))
    loras: dict[str, Lora] = {}
    for number, path in enumerate(all_paths(config)):
        if number % 5 != skipped:  # layers differ in what is updated, and in ranks
            loras |= random_loras(config, [path], rank=1 + number % 3, seed=number)
    updates = {
        path: WeightUpdate(lora.a.swapaxes(-1, -2), lora.b.swapaxes(-1, -2))
        for path, lora in loras.items()
    }
    write_adapter(updates, tmp_path / "two", config)
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig(**CONFIG)).to(torch.float32)
    before = {name: x.clone().double() for name, x in model.state_dict().items()}
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "two")
    after = adapted.merge_and_unload().state_dict()
    for path, lora in loras.items():
        name = path if ".experts." in path else f"{path}.weight"
        gained = (after[name].double() - before[name]).numpy()
        gained = gained.swapaxes(1, 2) if gained.ndim == 3 else gained
        np.testing.assert_allclose(gained, delta(lora), atol=1e-4)


RAW = hf_config(num_hidden_layers=2, vocab_size=61)
TINY = ModelConfig.from_dict(RAW)


def stock_model(folder: Path) -> Any:
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return model


@pytest.fixture
def stock_folder(tmp_path: Path) -> Path:
    """A tiny model in the layout that mlx-lm opens."""
    folder = tmp_path / "model"
    WRITERS["mlx-split-mxfp4"](folder, RAW, random_tensors(RAW, seed=2))
    return folder


def test_mlx_lm_reads_what_is_written(stock_folder: Path, tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import load_adapters

    loras = random_loras(TINY, all_paths(TINY), size=0.02)
    stored = open_adapter(write_peft(tmp_path / "peft", loras), TINY)
    write_adapter(dict(stored.updates()), tmp_path / "mlx", TINY, layout="mlx-lm")
    model = load_adapters(stock_model(stock_folder), str(tmp_path / "mlx"))
    found = dict(tree_flatten(model.parameters()))
    for path, lora in loras.items():
        gained = delta(lora, 2.0)
        halves = {path: gained}
        if path.endswith("gate_up_proj"):
            halves = {
                path.replace("gate_up", half): gained[:, n::2]
                for n, half in enumerate(("gate", "up"))
            }
        for name, expected in halves.items():
            a = np.array(found[f"{name}.lora_a"]).astype(np.float64)
            b = np.array(found[f"{name}.lora_b"]).astype(np.float64)
            product = b @ a if a.ndim == 3 else (a @ b).T
            np.testing.assert_allclose(product, expected, atol=1e-5)


def test_what_mlx_lm_saves_is_read(stock_folder: Path, tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import save_config

    model = stock_model(stock_folder)
    parameters = {"rank": 3, "scale": 2.5, "dropout": 0.0}
    linear_to_lora_layers(model, 1, parameters)
    mx.random.seed(0)
    drawn = {
        name: mx.random.normal(x.shape)
        for name, x in dict(tree_flatten(model.parameters())).items()
        if name.endswith(("lora_a", "lora_b"))
    }
    assert any(".experts." in name for name in drawn)
    folder = tmp_path / "adapter"
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), drawn)
    settings = {"num_layers": 1, "fine_tune_type": "lora"}
    save_config(
        {**settings, "lora_parameters": parameters}, folder / "adapter_config.json"
    )
    stored = open_adapter(folder, TINY)
    assert {path.split(".")[2] for path in stored.paths} == {"1"}
    q = "model.layers.1.self_attn.q_proj"
    update = stored.read(q)
    expected = 2.5 * np.array(drawn[f"{q}.lora_a"]) @ np.array(drawn[f"{q}.lora_b"])
    np.testing.assert_allclose(update.a @ update.b, expected, atol=1e-4)
