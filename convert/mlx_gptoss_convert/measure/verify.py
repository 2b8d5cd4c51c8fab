"""Verify a conversion from the bytes of both sides.

Level 0: the folder itself: digests of `conversion.json`, and finite values. Level 1:
every byte of every expert against the source. Level 2: the error of all other tensors
against the source, by kind. Both sides are read independently of the conversion's
steps. Peak memory: one expert of each side in float32.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.layout import EXPERTS, PACKED, Matrix, matrices, vectors
from mlx_gptoss_convert.measure.matrices import MatrixReader
from mlx_gptoss_convert.measure.report import ErrorStats, VerificationReport
from mlx_gptoss_convert.plan.recipe import kind_of
from mlx_gptoss_convert.read.checkpoint import open_source, tensors_in_files
from mlx_gptoss_convert.read.digests import Digests
from mlx_gptoss_convert.read.source import Progress, TensorReader, check_values
from mlx_gptoss_convert.write.journal import RESULT

LEAST_COSINE = 0.97  # 3 bits give 0.98, 4 bits 0.996, an unrelated matrix 0


def verify(
    folder: Path,
    against: Path | None = None,
    *,
    progress: Progress | None = None,
) -> VerificationReport:
    """Check `folder` by itself, and against the checkpoint it was made from.

    Raises CheckpointError if a side cannot be opened, and ConversionError if the two
    are different models; all other findings are `faults` of the report.
    """
    opened = open_source(folder, classifier=None)
    made = opened.checkpoint
    report = VerificationReport(notes=opened.notes)
    check_digests(made, report, progress)
    if against is not None:
        refuse_merged(folder)
        source = open_source(against, classifier=None).checkpoint
        check_models_agree(source, made)
        with TensorReader() as left, TensorReader() as right:
            compare_all(
                MatrixReader(source, left), MatrixReader(made, right), report, progress
            )
    return report


def check_digests(
    made: Checkpoint, report: VerificationReport, progress: Progress | None
) -> None:
    """Read every byte; check that values are finite and digests match the journal."""
    expected = dict(read_result(made.folder).get("tensors", {}))
    tensors = tensors_in_files(made)
    total = sum(stored.nbytes for stored in tensors.values())
    done = 0
    with Digests() as digests, TensorReader() as source:
        for name, stored in tensors.items():
            try:
                for raw in source.slices(stored):
                    digests.add(name, raw)
                    check_values(stored, raw)
            except ConversionError as error:
                report.faults.append(str(error))
            done += stored.nbytes
            if progress is not None:
                progress(done, total, name)
        found = digests.take()
    for written, digest in found.items():
        if expected.get(written) == digest:
            report.digests += 1
        elif written in expected:
            report.faults.append(f"`{written}` is not what `{RESULT}` says was written")
        elif expected:
            report.faults.append(f"`{written}` is not in `{RESULT}`")


def read_result(folder: Path) -> dict[str, Any]:
    """Read `conversion.json`; {} for a folder that was not made here."""
    path = folder / RESULT
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        return {**found, "tensors": dict(found["tensors"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"`{path}` is damaged: {error}") from error


def refuse_merged(folder: Path) -> None:
    """Raise ConversionError for a merged model, which differs from every source."""
    if "adapter" in read_result(folder):
        raise ConversionError(
            f"`{folder}` has an adapter merged into it, so it is not its source any "
            "more: leave `--against` out, its model card has what merging lost"
        )


def check_models_agree(source: Checkpoint, made: Checkpoint) -> None:
    before, after = asdict(source.config), asdict(made.config)
    del before["eos_token_ids"], after["eos_token_ids"]  # not part of the maths
    for key, value in before.items():
        if after[key] != value:
            raise ConversionError(
                f"`{made.folder}` has `{key}` = {after[key]!r}, `{source.folder}` has "
                f"{value!r}: one was not made from the other"
            )


def compare_all(
    before: MatrixReader,
    after: MatrixReader,
    report: VerificationReport,
    progress: Progress | None,
) -> None:
    chosen = list(matrices(before.checkpoint.config, PACKED))
    total = sum(tensor.nbytes for tensor in before.checkpoint.tensors.values())
    done = 0
    for matrix in chosen:
        if matrix.part == EXPERTS:
            compare_experts(matrix, before, after, report)
        else:
            compare_matrix(matrix, before, after, report)
        if matrix.has_bias:
            biases = before.bias(matrix.path), after.bias(matrix.path)
            report.error("biases").add(*biases)
            if not np.array_equal(*biases):
                report.same_experts.discard(matrix.path)
        done += sum(
            before.checkpoint.tensors[f"{path}.weight"].nbytes
            for path in before.paths(matrix.path)
        )
        if progress is not None:
            progress(done, total, matrix.path)
    for vector in vectors(before.checkpoint.config):
        kind = "sinks" if vector.name.endswith("sinks") else "norms"
        report.error(kind).add(before.floats(vector.name), after.floats(vector.name))
    check_untouched(report)


def compare_matrix(
    matrix: Matrix,
    before: MatrixReader,
    after: MatrixReader,
    report: VerificationReport,
) -> None:
    """Compare values: equal if both sides store them alike, else similar."""
    path, error = matrix.path, ErrorStats()
    for rows in zip(before.rows(matrix), after.rows(matrix), strict=True):
        error.add(*rows)
    report.error(kind_of(path) or "router").merge(error)
    cosine = error.summary()["cosine"]
    if is_stored_alike(path, before, after) and error.largest > 0:
        report.faults.append(f"`{path}` differs from the source, stored alike")
    elif cosine < LEAST_COSINE:
        report.faults.append(
            f"`{path}` has the cosine {cosine:.3f} to the source's, expected at least "
            f"{LEAST_COSINE}"
        )


def is_stored_alike(path: str, before: MatrixReader, after: MatrixReader) -> bool:
    """Whether no conversion could have changed the values of a matrix."""
    kind = after.ggml_type(path)
    return before.storage(path) == after.storage(path) and (
        kind is None or kind == before.ggml_type(path)
    )


def compare_experts(
    matrix: Matrix,
    before: MatrixReader,
    after: MatrixReader,
    report: VerificationReport,
) -> None:
    """Compare bytes if both sides are packed alike, else values."""
    path = matrix.path
    same = before.expert_setting(path) == after.expert_setting(path) is not None
    kinds = [
        kind
        for kind in ("weight", "scales", "biases")
        if f"{before.paths(path)[0]}.{kind}" in before.checkpoint.tensors
    ]
    faults = len(report.faults)
    for expert in range(matrix.shape[0]):
        if not same:
            error = report.error("experts")
            error.add(before.expert(path, expert), after.expert(path, expert))
            continue
        for kind in kinds:
            left = before.packed_expert(path, kind, expert)
            right = after.packed_expert(path, kind, expert)
            if np.array_equal(left, right):
                report.expert_bytes += left.nbytes
                continue
            row = int((left != right).any(axis=1).argmax())
            report.faults.append(
                f"`{path}` {kind} of expert {expert} differs from the source, first in "
                f"row {row}"
            )
    if same and len(report.faults) == faults:
        report.same_experts.add(path)


def check_untouched(report: VerificationReport) -> None:
    """Report changed norms, sinks, biases and routers: no conversion changes them."""
    for kind in ("router", "norms", "sinks", "biases"):
        if kind in report.errors and report.errors[kind].largest > 0:
            report.faults.append(f"{kind} differ from the source")
