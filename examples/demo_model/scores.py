"""Report the scores of held-out cases as text; knows nothing of models."""

from collections import defaultdict
from collections.abc import Sequence

from examples.demo_model.cases import Case, Output

Found = Sequence[Output | None]


def shares(chosen: Sequence[Case], found: Found) -> dict[str, float]:
    """Return the share of correct outputs in percent, by kind."""
    right: dict[str, list[bool]] = defaultdict(list)
    for case, output in zip(chosen, found, strict=True):
        right[case.kind].append(case.accepts(output))
    return {kind: 100 * sum(marks) / len(marks) for kind, marks in right.items()}


def analysis_letters(chosen: Sequence[Case], found: Found) -> dict[str, float]:
    """Return the mean length of the analysis in letters, by effort."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for case, output in zip(chosen, found, strict=True):
        if output is not None:
            sizes[case.effort].append(len(output.analysis))
    return {effort: sum(lengths) / len(lengths) for effort, lengths in sizes.items()}


def report(chosen: Sequence[Case], found: Found, show: int) -> str:
    """Format up to `show` failures of each kind, then the shares."""
    lines = list(_failures(chosen, found, show))
    for kind, share in shares(chosen, found).items():
        count = sum(case.kind == kind for case in chosen)
        lines.append(f"{kind:24} {share:5.1f} % of {count}")
    valid = 100 * sum(output is not None for output in found) / len(found)
    lines.append(f"{'valid Harmony':24} {valid:5.1f} % of {len(found)}")
    for effort, letters in analysis_letters(chosen, found).items():
        lines.append(f"{f'analysis, {effort} effort':24} {letters:5.0f} letters")
    return "\n".join(lines)


def _failures(chosen: Sequence[Case], found: Found, show: int) -> list[str]:
    lines: list[str] = []
    shown: dict[str, int] = defaultdict(int)
    for case, output in zip(chosen, found, strict=True):
        if case.accepts(output) or shown[case.kind] == show:
            continue
        shown[case.kind] += 1
        lines.append(f"{case.kind}: {case.prompt[-1].text!r}")
        lines.append(f"    wanted {case.tool or ''} {case.text!r}")
        lines.append(f"    got    {output}")
    return lines
