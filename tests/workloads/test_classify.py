"""Verdicts: what a model says, how sure it is, and whole piles of texts."""

import asyncio
import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_gptoss import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scoring import score_continuations
from mlx_gptoss.errors import AnswerFormatError, BatchError, PolicyError
from mlx_gptoss.workloads.classify import Classifier, ClassifyOptions, Verdict
from mlx_gptoss.workloads.classify.calibration import (
    Calibration,
    expected_error,
    fit,
    load_calibration,
    save,
)
from mlx_gptoss.workloads.classify.classifier import JudgedText
from mlx_gptoss.workloads.classify.inputs import open_texts
from mlx_gptoss.workloads.classify.policy import Policy, parse_policy
from mlx_gptoss.workloads.classify.report import Tally, right_label
from mlx_gptoss.workloads.classify.run import ClassifyJob
from mlx_gptoss.workloads.classify.verdict import label_logprobs, probabilities
from tests.support.judging import POLICY, SURENESS, THOUGHT, judging

MANNERS = parse_policy(POLICY, "manners")
OTHER = Policy("other", MANNERS.text)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with judging() as opened:
        yield opened


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as opened:
        yield opened


def judged(runtime: Runtime, text: str, **options: Any) -> Verdict:
    classifier = Classifier(runtime, ClassifyOptions(**options))
    return asyncio.run(classifier.classify(text, MANNERS))


def test_a_verdict_has_label_rule_confidence_and_its_reasoning_apart(
    runtime: Runtime,
) -> None:
    bad, good = judged(runtime, "That is bad."), judged(runtime, "Hello")
    assert (bad.label, bad.flagged, bad.rule) == ("1", True, "M1.a")
    assert (good.label, good.flagged, good.rule) == ("0", False, "M0.a")
    for one in (bad, good):
        assert one.confidence == pytest.approx(SURENESS, abs=1e-6)
        assert sum(one.scores.values()) == pytest.approx(1)
        assert one.reasoning == THOUGHT and one.rationale is None
        assert "reasoning" not in one.as_json()
    assert judged(runtime, "x", rationale=True).rationale == "So."
    assert judged(runtime, "x", scores=False).confidence is None
    assert bad.as_json(reasoning=True)["reasoning"] == THOUGHT


def test_a_verdict_that_is_cut_off_is_an_error(runtime: Runtime) -> None:
    with pytest.raises(AnswerFormatError, match="allow more tokens"):
        judged(runtime, "x", params=SamplingParams(max_tokens=30, temperature=0))


def test_scores_are_those_of_one_full_pass(demo: Runtime) -> None:
    """For labels of several tokens, of which one begins with another."""
    labels = ("SP1", "SP12", "not spam")
    policy = Policy("p", "What is spam?", labels, frozenset(labels[:1]))
    text = "What is 417 + 285?"
    seen: list[JudgedText] = []

    class Watched(Classifier):
        async def _scores(self, answer: JudgedText, policy: Policy) -> dict[str, float]:
            seen.append(answer)
            return await super()._scores(answer, policy)

    options = ClassifyOptions(max_reasoning=20, effort="low")
    verdict = asyncio.run(Watched(demo, options).classify(text, policy))
    assert verdict.label in labels
    before, quoted = seen[0].before_label(demo.tokenizer)
    decoded = demo.tokenizer.decode(before)
    told = decoded.rpartition("<|channel|>final<|message|>")[2] + quoted
    assert "".join(told.split()) == '{"label":"'
    sequences = [demo.tokenizer.encode(quoted + label) for label in labels]
    by_token = []
    for tokens in sequences:
        logits = demo.logits([*before, *tokens])[len(before) - 1 : -1]
        rows = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        by_token.append([float(rows[at, one]) for at, one in enumerate(tokens)])
    expected = label_logprobs(sequences, by_token)
    for label, logprob in zip(labels, expected, strict=True):
        assert verdict.logprobs[label] == pytest.approx(logprob, abs=1e-4)
    assert verdict.scores == probabilities(verdict.logprobs)


def test_a_label_that_begins_another_is_what_the_other_leaves() -> None:
    """The next token after [1] is 2 with p = 0.75: 0.25 are left for the end."""
    scores = label_logprobs([[1], [1, 2], [3]], [[-0.5], [-0.5, math.log(0.75)], [-2]])
    assert scores == pytest.approx([-0.5 + math.log(0.25), -0.5 + math.log(0.75), -2])


def test_scoring_needs_no_free_place_of_its_own(demo: Runtime) -> None:
    ids = demo.tokenizer.encode("one two three four five six")

    async def both() -> Any:
        work = [score_continuations(demo, ids, [[5], [6, 7]]) for _ in range(8)]
        return await asyncio.gather(*work)

    first, *others = asyncio.run(both())
    assert [len(one) for one in first] == [1, 2]
    for one in others:
        assert one == [pytest.approx(row, abs=1e-4) for row in first]


def table(path: Path, texts: dict[str, str]) -> Path:
    rows = "".join(f"{text},{label}\n" for text, label in texts.items())
    path.write_text(f"text,label\n{rows}")
    return path


def run(runtime: Runtime, job: ClassifyJob) -> Any:
    return asyncio.run(job.run(runtime))


def test_a_pile_is_judged_and_gone_on_with(tmp_path: Path, runtime: Runtime) -> None:
    source = table(tmp_path / "in.csv", {"bad one": "1", "fine": "0", "very bad": "0"})
    output = tmp_path / "out.csv"
    job = ClassifyJob(texts=open_texts([source]), policies=(MANNERS,), output=output)
    done = run(runtime, job)
    whole = output.read_bytes()
    output.write_bytes(whole[:-20])  # as if it had been killed there
    again = run(runtime, job)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert (done.total, done.done, done.failed) == (3, 3, 0)
    assert again.before == 2 and output.read_bytes() == whole
    assert [row["label_verdict"] for row in rows] == ["1", "0", "1"]
    assert [row["label"] for row in rows] == ["1", "0", "0"]
    assert rows[0]["rule"] == "M1.a" and rows[0]["flagged"] == "true"
    assert float(rows[0]["confidence"]) == pytest.approx(SURENESS, abs=1e-6)
    other = ClassifyJob(texts=open_texts([source]), policies=(OTHER,), output=output)
    with pytest.raises(BatchError, match="other work"):
        run(runtime, other)


def test_several_policies_judge_every_text(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("bad\nbad")
    (tmp_path / "b.md").write_text("good")
    (tmp_path / "broken.txt").write_bytes(b"\xff")
    paths = [tmp_path / name for name in ("texts", "b.md", "broken.txt")]
    output = tmp_path / "out.jsonl"
    job = ClassifyJob(
        texts=open_texts(paths),
        policies=(MANNERS, OTHER),
        output=output,
        reasoning=True,
    )
    done = run(runtime, job)
    first, second = map(json.loads, output.read_text().splitlines())
    [error] = map(json.loads, (tmp_path / "out.errors.jsonl").read_text().splitlines())
    assert (done.done, done.failed) == (3, 1)
    assert (first["file"], first["manners.label"], first["other.label"]) == (
        "a.txt",
        "1",
        "1",
    )
    assert second["manners.label"] == "0" and second["manners.reasoning"] == THOUGHT
    assert "is not UTF-8" in error["error"] and "broken.txt" in error["row"]


@pytest.mark.parametrize(
    ("rows", "field", "said"),
    [
        ('{"a": "x", "b": "y"}', None, "name one with --field"),
        ('{"a": "x"}', "c", "it has `a`"),
        ('{"a": 3}', None, "has no text in its field `a`"),
    ],
)
def test_a_row_without_its_text_says_why(
    tmp_path: Path, rows: str, field: str | None, said: str
) -> None:
    (tmp_path / "in.jsonl").write_text(rows)
    texts = open_texts([tmp_path / "in.jsonl"], field=field)
    assert said in (next(texts.rows()).problem or "")


def test_stdin_is_one_text_or_a_text_a_line() -> None:
    def rows(**options: Any) -> list[str]:
        texts = open_texts([Path("-")], stdin=lambda: b"a\n\nb\n", **options)
        return [texts.text_of(row) for row in texts.rows()]

    assert rows() == ["a\n\nb\n"] and rows(lines=True) == ["a", "b"]


def test_a_report_counts_what_is_right_and_what_is_not() -> None:
    tally = Tally(MANNERS)
    given = [("1", "1"), ("1", "1"), ("1", "0"), ("0", "1"), ("0", "0"), (None, "0")]
    for at, (right, label) in enumerate(given):
        verdict = Verdict("manners", label, label == "1", scores={label: 0.75})
        tally.add(right=right, verdict=verdict, where=f"line {at}", text="x " * 99)
    assert tally.total == 5 and tally.unlabelled == 1
    assert tally.accuracy == pytest.approx(3 / 5)
    assert tally.precision("1") == tally.recall("1") == pytest.approx(2 / 3)
    assert tally.f1("0") == pytest.approx(1 / 2)
    assert tally.as_json()["confusion"] == {
        "0": {"0": 1, "1": 1},
        "1": {"0": 1, "1": 2},
    }
    shown = tally.table()
    assert "2 went wrong" in shown and "line 2: 0 (75%), should be 1" in shown
    empty = Tally(MANNERS)
    assert empty.accuracy is None and "-" in empty.table()


def test_right_labels_may_be_for_each_policy() -> None:
    assert right_label({"label": 1}, "label", MANNERS) == "1"
    assert right_label({"label": {"manners": "0"}}, "label", MANNERS) == "0"
    assert right_label({"label": "1", "label.manners": "0"}, "label", MANNERS) == "0"
    assert right_label({"label": True}, "label", MANNERS) is None
    assert right_label({}, "label", MANNERS) is None


def test_calibration_makes_confidence_match_how_often_it_is_right(
    tmp_path: Path, runtime: Runtime
) -> None:
    """Sure of 95 %, right in 70 %: the temperature is known in closed form."""
    gap = math.log(0.95 / 0.05)
    pairs = [({"1": 0.0, "0": -gap}, "1" if at % 10 < 7 else "0") for at in range(200)]
    found = fit(pairs, MANNERS, runtime.digest)
    assert found.temperature == pytest.approx(gap / math.log(0.7 / 0.3), rel=1e-3)
    assert found.error_before == pytest.approx(0.25, abs=1e-6)
    assert found.error_after == pytest.approx(0, abs=1e-3)
    assert expected_error(pairs, 1.0) == found.error_before

    path = tmp_path / "fit.json"
    save(found, path)
    again = load_calibration(path, MANNERS, runtime.digest)
    assert again == found
    plain = judged(runtime, "bad")
    sure = judged(runtime, "bad", calibrations={"manners": again})
    assert sure.label == plain.label
    expected = 1 / (1 + (1 / SURENESS - 1) ** (1 / found.temperature))
    assert sure.confidence == pytest.approx(expected, abs=1e-6)


def test_a_calibration_of_other_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="too few"):
        fit([({"0": 0.0, "1": -1.0}, "0")] * 9, MANNERS, "m")
    path = tmp_path / "fit.json"
    save(Calibration(1.0, MANNERS.digest(), "m", 10, 0.1, 0.1), path)
    with pytest.raises(PolicyError, match="another model"):
        load_calibration(path, MANNERS, "n")
    changed = Policy("manners", "Another policy.")
    with pytest.raises(PolicyError, match="another policy"):
        load_calibration(path, changed, "m")
    path.write_text("{}")
    with pytest.raises(PolicyError, match="is no calibration"):
        load_calibration(path, MANNERS, "m")
