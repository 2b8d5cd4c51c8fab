"""Add the report of `verify` to the model card, as its last section."""

from pathlib import Path

from mlx_gptoss.files import write
from mlx_gptoss_convert.measure.report import VerificationReport
from mlx_gptoss_convert.write.model_card import CARD

MEASURED = "## Measured against the source"


def add_to_card(report: VerificationReport, folder: Path) -> None:
    """Append the report to the model card, replacing an earlier one.

    A folder without a card is left without one.
    """
    path = folder / CARD
    if path.is_file():
        card = path.read_text(encoding="utf-8").partition(MEASURED)[0].rstrip()
        write(path, f"{card}\n\n{measured_text(report)}", private=False)


def measured_text(report: VerificationReport) -> str:
    """Format the errors by kind of tensor, and the divergence if measured."""
    rows = ["| tensors | largest error | rms, share of the source's | cosine |"]
    rows.append("|---|---:|---:|---:|")
    if report.expert_bytes:
        rows.append("| experts, byte by byte | 0 | 0 | 1 |")
    for kind, error in report.errors.items():
        found = error.summary()
        rows.append(
            f"| {kind} | {found['max']:.2g} | {found['relative_rms']:.2%} | "
            f"{found['cosine']:.6f} |"
        )
    sections = [MEASURED, "\n".join(rows)]
    if report.divergence is not None:
        sections.append(DIVERGENCE.format(**report.divergence))
    return "\n\n".join(sections) + "\n"


DIVERGENCE = """Predictions at {positions} positions of {text}:

| | |
|---|---:|
| KL divergence, mean | {kl:.5f} nats |
| KL divergence, 99th percentile | {kl_99:.5f} nats |
| top token differs | {flips:.2%} |
| top 5 tokens kept | {top5_overlap:.2%} |
| perplexity, source and here | {perplexity_before:.3f} and {perplexity_after:.3f} |"""
