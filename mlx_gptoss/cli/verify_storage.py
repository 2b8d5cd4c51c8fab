"""`mlx-gptoss verify MODEL --experts-modes`: is it one model however it is stored?"""

import json
from dataclasses import asdict
from pathlib import Path

import click

from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import GptOssError


def verify_modes(folder: Path, *, as_json: bool) -> None:
    """Compare the storages of a model's experts; raises GptOssError if they differ."""
    from mlx_gptoss.diagnostics.storage_check import compare_modes

    found = compare_modes(folder, say=note)
    if as_json:
        for each in found:
            click.echo(json.dumps(asdict(each) | {"equal": each.equal}))
    else:
        width = max(len(each.name) for each in found)
        for each in found:
            exact = each.prompt_difference == each.decode_difference == 0
            verdict = "the same bit for bit" if exact else "within the tolerance"
            if not each.equal:
                verdict = (
                    f"DIFFERS by {each.prompt_difference:.3g} (prompt) and "
                    f"{each.decode_difference:.3g} (decoding)"
                )
            click.echo(f"{each.name:<{width}}  {each.hit_rate:>4.0%} hits  {verdict}")
    wrong = [each.name for each in found if not each.equal]
    if wrong:
        raise GptOssError(
            f"`{folder}` is another model with its experts {' and '.join(wrong)}: run "
            "`mlx-gptoss doctor --self-test` and report what it prints"
        )
