"""`mlx-gptoss verify MODEL --experts-modes`: compare all ways to store experts."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import GptOssError


def verify_modes(folder: Path, *, as_json: bool) -> None:
    """Compare a model with resident, hybrid and streamed experts.

    Raises GptOssError if their logits differ.
    """
    from mlx_gptoss.diagnostics.storage_check import compare_modes

    found = compare_modes(folder, progress=note)
    if as_json:
        for each in found:
            click.echo(json.dumps(asdict(each) | {"equal": each.equal}))
    else:
        width = max(len(each.name) for each in found)
        for each in found:
            exact = each.prompt_difference == each.decode_difference == 0
            verdict = "bit for bit the same" if exact else "within the tolerance"
            if not each.equal:
                verdict = (
                    f"DIFFERS by {each.prompt_difference:.3g} (prompt) and "
                    f"{each.decode_difference:.3g} (decoding)"
                )
            click.echo(f"{each.name:<{width}}  {each.hit_rate:>4.0%} hits  {verdict}")
    wrong = [each.name for each in found if not each.equal]
    if wrong:
        raise GptOssError(
            f"`{folder}` computes other logits with {' and '.join(wrong)} experts: run "
            "`mlx-gptoss doctor --self-test` and report its output"
        )
