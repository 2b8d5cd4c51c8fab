"""`mlx-gptoss unredact [FILE]...`: put back what was masked."""

from collections.abc import Sequence
from pathlib import Path

import click

from mlx_gptoss.cli.redact.documents import (
    plan_documents,
    read_source,
    takes_documents,
    write_result,
)


@click.command(short_help="Put back what `redact` masked")
@takes_documents
@click.option(
    "--vault",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The file that `redact --vault` wrote",
)
def unredact(
    sources: Sequence[Path], output: Path | None, kind: str | None, vault: Path
) -> None:
    """Put back what placeholders in FILEs, folders or stdin stand for.

    The text may have changed in between: an answer of a model, for example. What is
    no placeholder of the vault stays. Files that are written are readable by you alone.

    \b
    mlx-gptoss unredact answer.md --vault letters.vault
    """
    from mlx_gptoss.workloads.redact import Vault
    from mlx_gptoss.workloads.redact.work import restore_document

    kept = Vault.read(vault)
    for path, target in plan_documents(sources, output, vault).works:
        source, pieces = read_source(path, target, kind), list[str]()
        restore_document(
            source.text, source.kind, source.name, kept, write=pieces.append
        )
        write_result(target, pieces, private=True)
