"""What `verify` found, as the last section of the model card.

Knows reports and the card's file; reads no weights.
"""

from pathlib import Path

from mlx_gptoss.files import write
from mlx_gptoss_convert.measure.report import VerificationReport
from mlx_gptoss_convert.write.model_card import CARD

MEASURED = "## Measured against the source"


def add_to_card(report: VerificationReport, folder: Path) -> None:
    """Put what `verify` found at the end of the model card, in the place of what it
    found before. A folder without a card gets none.
    """
    path = folder / CARD
    if path.is_file():
        card = path.read_text(encoding="utf-8").partition(MEASURED)[0].rstrip()
        write(path, f"{card}\n\n{measured_text(report)}", private=False)


def measured_text(report: VerificationReport) -> str:
    """Write the errors by kind of tensor, and the divergence where it was measured."""
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
| KL divergence, 99 % below | {kl_99:.5f} nats |
| most likely token is another | {flips:.2%} |
| five most likely tokens kept | {top5_overlap:.2%} |
| perplexity, source and here | {perplexity_before:.3f} and {perplexity_after:.3f} |"""
