"""KL divergence, measured layer by layer, equals that of the whole models."""

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.random_checkpoint import (
    random_config,
    write_config,
    write_random,
)
from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.measure import kl
from mlx_gptoss_convert.measure.divergence import Divergence, compare_logits
from mlx_gptoss_convert.measure.kl import measure_divergence
from mlx_gptoss_convert.measure.texts import (
    EvaluationText,
    conversation_texts,
    file_texts,
    fully_scored,
    make_batches,
)
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.foreign_ggufs import MATRICES, rewrite, types
from tests.support.gguf_conversions import to_gguf, to_mlx, write_tokenizer
from tests.support.layout_writers import WRITERS
from tests.support.packed_goldens import FOLDER, GOLDEN_FORMS

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "mlx_gptoss" / "demo"
CONFIG = hf_config(num_hidden_layers=3, intermediate_size=128)
TENSORS = random_tensors(CONFIG, seed=8)
FLOAT32_NOISE = 1e-4  # relative; the order of sums differs


def source(tmp_path: Path, layout: str = "hf") -> Path:
    WRITERS[layout](tmp_path / "source", CONFIG, TENSORS)
    return tmp_path / "source"


def converted(tmp_path: Path, recipe: str, *, experts: str = "packed") -> Path:
    plan = make_plan(
        open_checkpoint(tmp_path / "source"), RECIPES[recipe], experts=experts
    )
    convert(plan, tmp_path / "made")
    return tmp_path / "made"


def random_texts(*lengths: int) -> list[EvaluationText]:
    draw = np.random.default_rng(4)
    return [fully_scored(draw.integers(0, 301, length).tolist()) for length in lengths]


def log_softmax(folder: Path, texts: list[EvaluationText]) -> np.ndarray:
    """Return the whole model's log-probabilities of scored positions: (N, V)."""
    model = load_model(open_checkpoint(folder), dtype=mx.float32)
    rows = []
    for text in texts:
        logits = np.array(model(mx.array(text.ids)[None])[0])[text.scored]
        logits = logits.astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        rows.append(logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True)))
    return np.concatenate(rows)


def by_hand(before: np.ndarray, after: np.ndarray, targets: np.ndarray) -> Divergence:
    kl = (np.exp(before) * (before - after)).sum(axis=1)
    best = [np.argsort(-x, axis=1)[:, :5] for x in (before, after)]
    kept = [len(set(a) & set(b)) / 5 for a, b in zip(*best, strict=True)]
    rows = np.arange(len(targets))
    return Divergence(
        positions=len(kl),
        kl=kl.mean(),
        kl_99=np.quantile(kl, 0.99),
        flips=(best[0][:, 0] != best[1][:, 0]).mean(),
        top5_overlap=float(np.mean(kept)),
        perplexity_before=np.exp(-before[rows, targets].mean()),
        perplexity_after=np.exp(-after[rows, targets].mean()),
    )


@pytest.mark.parametrize(
    ("layout", "recipe", "experts"),
    [
        ("hf", "q4", "packed"),
        ("hf", "q8", "split"),
        ("mlx-split-affine", "q6", "packed"),
    ],
)
def test_layer_by_layer_equals_the_whole_models(
    tmp_path: Path, layout: str, recipe: str, experts: str
) -> None:
    before = source(tmp_path, layout)
    after = converted(tmp_path, recipe, experts=experts)
    texts = random_texts(9, 30, 17)
    texts.sort(key=lambda text: len(text.ids))  # as batches have them
    found = measure_divergence(open_checkpoint(before), open_checkpoint(after), texts)
    targets = np.concatenate([text.ids[1:] for text in texts])
    expected = by_hand(log_softmax(before, texts), log_softmax(after, texts), targets)
    assert found.as_dict() == pytest.approx(expected.as_dict(), rel=FLOAT32_NOISE)
    assert found.kl > 1e-4


def test_shared_experts_change_nothing(tmp_path: Path) -> None:
    before = open_checkpoint(source(tmp_path))
    folder = converted(tmp_path, "q4", experts="split")
    report = verify(folder, tmp_path / "source")
    paths = {
        f"model.layers.{n}.mlp.experts.{name}"
        for n in range(3)
        for name in ("gate_up_proj", "down_proj")
    }
    assert report.same_experts == paths
    texts = random_texts(40)
    after = open_checkpoint(folder)
    apart = measure_divergence(before, after, texts).as_dict()
    together = measure_divergence(before, after, texts, shared=paths).as_dict()
    assert together == pytest.approx(apart, rel=FLOAT32_NOISE)


def test_a_model_does_not_diverge_from_itself(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source(tmp_path))
    found = measure_divergence(checkpoint, checkpoint, random_texts(20))
    assert (found.kl, found.flips, found.top5_overlap) == (0, 0, 1)


def test_slices_of_the_vocabulary_add_up() -> None:
    draw = np.random.default_rng(1)
    before, after = draw.normal(0, 5, (2, 13, 101)).astype(np.float32)
    before[:, 60] += 40  # a confident prediction in a late slice
    targets = draw.integers(0, 101, 13)

    def sliced(width: int) -> Divergence:
        return compare_logits(
            targets,
            (
                (
                    mx.array(before[:, at : at + width]),
                    mx.array(after[:, at : at + width]),
                )
                for at in range(0, 101, width)
            ),
        )

    whole = sliced(101).as_dict()
    assert sliced(3).as_dict() == pytest.approx(whole, rel=1e-5)


def test_batches_hold_every_counted_position_once() -> None:
    texts = random_texts(5, 90, 33, 7, 60)
    found = list(make_batches(texts, tokens=100))
    assert [batch.ids.shape for batch in found] == [(3, 33), (1, 60), (1, 90)]
    targets = np.concatenate([batch.targets for batch in found])
    ordered = sorted(texts, key=lambda text: len(text.ids))
    assert targets.tolist() == np.concatenate([x.ids[1:] for x in ordered]).tolist()


def test_bundled_conversations_count_what_an_assistant_writes() -> None:
    tokenizer = Tokenizer.open(DEMO)
    first = conversation_texts(tokenizer)[0]
    following = first.ids[1:][first.scored[:-1]]
    text = tokenizer.decode(following.tolist())
    assert text.startswith("<|channel|>analysis<|message|>The user wants")
    assert text.count("<|channel|>") == 2
    assert text.endswith("sky is blue.<|end|>")


def test_a_tokenizer_without_harmony_needs_a_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(DEMO)
    tokenizer.specials = {}
    with pytest.raises(ConversionError, match="give a text with `--text`"):
        conversation_texts(tokenizer)


def test_a_text_is_cut_into_windows(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The cat sat on the mat. " * 400)
    texts = file_texts(path, Tokenizer.open(DEMO), first=7, limit=1030)
    assert [len(text.ids) for text in texts] == [513, 513]
    assert texts[0].ids[0] == 7


def test_a_text_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Hi")
    with pytest.raises(ConversionError, match="give a text of 16 or more"):
        file_texts(path, Tokenizer.open(DEMO), first=None)


def test_verify_keeps_the_divergence_in_report_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = conversation_texts(Tokenizer.open(DEMO))[:1]
    monkeypatch.setattr(kl, "conversation_texts", lambda tokenizer: first)
    plan = make_plan(open_checkpoint(DEMO), RECIPES["q4"])
    convert(plan, tmp_path / "made")
    command = ["verify", str(tmp_path / "made"), "--against", str(DEMO), "--kl"]
    (tmp_path / "short.txt").write_text("The cat sat on the mat. " * 3)
    short = ["--text", str(tmp_path / "short.txt")]
    assert CliRunner().invoke(cli, [*command, *short]).exit_code == 0
    result = CliRunner().invoke(cli, command)  # replaces the first report
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "made" / "report.json").read_text())["divergence"]
    assert found["text"] == "the bundled Harmony conversations"
    assert found["positions"] == sum(int(text.scored.sum()) for text in first) > 50
    assert 1e-4 < found["kl"] < 1
    assert f"KL {found['kl']:.5f} nats" in result.stdout
    card = (tmp_path / "made" / "README.md").read_text()
    assert card.count("## Measured against the source") == 1
    assert f"| KL divergence, mean | {found['kl']:.5f} nats |" in card


def test_a_gguf_is_run_as_what_it_decodes_to(tmp_path: Path) -> None:
    folder, text = source(tmp_path), tmp_path / "text.txt"
    write_tokenizer(folder / "tokenizer.json")
    text.write_text("The cat sat on the mat. " * 2)
    made = to_gguf(folder, tmp_path / "gguf")
    assert 0 <= divergence_by_command(made, folder, text)["kl"] < 1e-6
    theirs = rewrite(made / FILE, tmp_path / "q4.gguf", retype=types("Q4_0", MATRICES))
    back = to_mlx(theirs, tmp_path / "made")
    assert 0 <= divergence_by_command(back, theirs, text)["kl"] < 1e-6
    coarse = to_mlx(theirs, tmp_path / "coarse", "q4")
    assert divergence_by_command(coarse, theirs, text)["kl"] > 1e-3


def divergence_by_command(made: Path, against: Path, text: Path) -> dict[str, float]:
    command = ["verify", str(made), "--against", str(against), "--kl", "--text"]
    result = CliRunner().invoke(cli, [*command, str(text)])
    assert result.exit_code == 0, result.output
    return json.loads((made / "report.json").read_text())["divergence"]


@pytest.mark.parametrize("form", GOLDEN_FORMS)
def test_packed_weights_of_other_tools_are_run_as_what_they_decode_to(
    tmp_path: Path, form: str
) -> None:
    source = open_source(FOLDER / form).checkpoint
    convert(make_plan(source, RECIPES["lossless"]), tmp_path / "made")
    made = open_checkpoint(tmp_path / "made")
    ids = np.random.default_rng(4).integers(0, 64, 20)
    text = fully_scored(ids.tolist())
    found = measure_divergence(source, made, [text])
    keeps_experts = form in ("modelopt", "compressed", "compressed_cast")
    assert (found.kl < 1e-6) == keeps_experts
    assert found.kl < 0.2


def test_kl_needs_a_source(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["verify", str(DEMO), "--kl"])
    assert (result.exit_code, "needs `--against SRC`" in result.stderr) == (1, True)


CHILD = """
import sys
import mlx_gptoss  # first, for its BLAS
import mlx.core as mx
import numpy as np
from mlx_gptoss.diagnostics.bench.peak import peak_rss
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss_convert.measure.kl import measure_divergence
from mlx_gptoss_convert.measure.texts import fully_scored

mx.eval(mx.zeros(9) @ mx.zeros(9))  # start-up is not part of the measurement
before = peak_rss()
checkpoint = open_checkpoint(sys.argv[1])
shared = sys.argv[3:] and {
    f"model.layers.{n}.mlp.experts.{name}"
    for n in range(checkpoint.config.num_hidden_layers)
    for name in ("gate_up_proj", "down_proj")
}
draw = np.random.default_rng(0)
length = int(sys.argv[2])
texts = [fully_scored(draw.integers(0, 999, length).tolist()) for _ in range(2)]
found = measure_divergence(checkpoint, checkpoint, texts, shared=shared)
assert found.kl == 0, found
print(peak_rss() - before)
"""


def peak_of_measuring(folder: Path, length: int, *, shared: bool = False) -> int:
    """Compare a checkpoint with itself in a separate process; return peak bytes."""
    arguments = [str(folder), str(length), *(["shared"] if shared else [])]
    run = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stdout)


def test_memory_holds_a_layer_not_the_model(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "random", 60_000_000)
    assert open_checkpoint(folder).config.num_hidden_layers > 60
    assert peak_of_measuring(folder, 6) < 40_000_000


def write_two_layers_of_120b(folder: Path) -> Path:
    """Write noise in the published shapes: 4.5 GB, 2.3 GB of it vocabulary."""
    config = random_config(60 * 10**9)
    kinds = config["layer_types"][:2]
    config |= {"num_hidden_layers": 2, "layer_types": kinds, "num_local_experts": 128}
    return write_config(folder, config)


@pytest.mark.soak
@pytest.mark.parametrize(("shared", "most"), [(True, 3.2e9), (False, 4.9e9)])
def test_memory_of_real_layers_of_120b(
    tmp_path: Path, shared: bool, most: float
) -> None:
    folder = write_two_layers_of_120b(tmp_path / "two")
    assert peak_of_measuring(folder, 1024, shared=shared) < most
