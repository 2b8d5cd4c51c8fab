"""Options of every benchmark that reports figures, and `mlx-gptoss bench compare`."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mlx_gptoss.cli.given import is_given
from mlx_gptoss.cli.options import json_option
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note

NOTHING = "-"
PROGRAM = "mlx-gptoss"
OUTPUT_OPTIONS = ("as_json", "save")
SECRETS = ("against_key",)  # never written to a file
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@dataclass(frozen=True)
class BenchOutput:
    """How a benchmark's result is printed, and the file it is kept in."""

    as_json: bool
    save: Path | None

    def show(
        self, found: Any, table: Callable[[Any], str], *, bench: str | None = None
    ) -> None:
        """Print a result as JSON or as a table, and save it if asked to.

        `bench` names what was measured, by default the command.
        """
        result = found.as_json()
        if self.save is not None:
            self._write(self.save, result, bench)
        click.echo(json.dumps(result, indent=2) if self.as_json else table(found))

    def _write(self, path: Path, result: dict[str, Any], bench: str | None) -> None:
        from mlx_gptoss.diagnostics.bench.saved_runs import SavedRun

        context = click.get_current_context()
        settings = {
            name: _plain(value)
            for name, value in context.params.items()
            if name not in (*OUTPUT_OPTIONS, *SECRETS)
        }
        model = settings.get("model") or result.get("model")
        if "model" in result:
            result = result | {"model": model}  # as it was named, not its folder
        name = bench or str(context.info_name)
        run = SavedRun.of_today(name, _command(context), result, settings, model)
        run.write(path)
        note(f"saved to {path}")


def bench_output(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` and `--save` to a command, which receives `output: BenchOutput`."""

    @json_option
    @click.option(
        "--save",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False, writable=True),
        callback=_check_folder,
        help="Also write the result to a file, for `bench compare`",
    )
    @wraps(function)
    def wrapper(*args: Any, as_json: bool, save: Path | None, **rest: Any) -> Any:
        return function(*args, output=BenchOutput(as_json, save), **rest)

    return wrapper


@click.command(short_help="Two saved results, figure by figure")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@json_option
def compare(a: Path, b: Path, as_json: bool) -> None:
    """Compare the figures of two files written with `--save`.

    The ratio is B / A. Notes name what else differs: the machine, versions, the model,
    settings. Files of different benchmarks are refused.
    """
    from mlx_gptoss.diagnostics.bench.saved_runs import SavedRun, compare_runs

    found = compare_runs(SavedRun.read(a), SavedRun.read(b))
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        click.echo(comparison_table(found, a.name, b.name))


def comparison_table(found: Any, a: str, b: str) -> str:
    """Return one row per figure, then the notes."""
    rows = [[f"bench {found.bench}", f"A: {a}", f"B: {b}", "B / A"]]
    for each in found.figures:
        ratio = NOTHING if each.ratio is None else f"{each.ratio:.3f}x"
        rows.append([each.figure, _number(each.a), _number(each.b), ratio])
    return "\n".join([aligned(rows, columns=4), *(f"note: {x}" for x in found.notes)])


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def _check_folder(
    _: click.Context, __: click.Parameter, path: Path | None
) -> Path | None:
    """Refuse a file in a missing folder before anything is measured."""
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder `{path.parent}`: make it first")
    return path


def _command(context: click.Context) -> str:
    """Return the command line with the options that were given."""
    words = [PROGRAM, *context.command_path.split()[1:]]
    for option in context.command.params:
        name = str(option.name)
        if not is_given(name) or name in (*OUTPUT_OPTIONS, *SECRETS):
            continue
        value = context.params[name]
        for one in value if isinstance(value, tuple) else [value]:
            words += [option.opts[0]] + ([] if one is True else [str(one)])
    return shlex.join(words)


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return (
        value if value is None or isinstance(value, bool | int | float) else str(value)
    )
