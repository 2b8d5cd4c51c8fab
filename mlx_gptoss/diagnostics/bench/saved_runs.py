"""Results of benchmarks in files: written, read, and compared figure by figure.

A file holds one JSON object: `bench` (the command's name), `command`, `settings`,
`model`, `machine`, `versions`, `commit` (null outside a checkout), `date`, and the
`--json` output as `result`. The files in results/ are read as well: those written
before there was a `bench` have it in their `command`. Knows no benchmark: a figure is a
number in `result` that is no setting.
"""

import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.files import write

PACKAGES = ("mlx-gptoss", "mlx", "mlx-lm")
REPOSITORY = Path(__file__).parents[3]
COMMAND_WORDS = ("mlx-gptoss", "bench")
# Keys that tell the entries of a list apart.
IDENTITIES = ("name", "engine", "against", "streams", "turn", "depth", "rows")
# Numbers that are no figures: the details of a sum, and the load of the machine.
LEFT_OUT = ("primitives", "load_average")
BUSY = 1.0  # load average before a run from which a note warns


@dataclass(frozen=True)
class SavedRun:
    """One run of a benchmark; `settings` are the options of its command."""

    bench: str
    command: str
    result: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    date: str = ""

    @classmethod
    def of_today(
        cls,
        bench: str,
        command: str,
        result: Mapping[str, Any],
        settings: Mapping[str, Any],
        model: str | None,
    ) -> "SavedRun":
        """Return a run with this machine, its versions, the commit and the date."""
        return cls(
            bench,
            command,
            result,
            settings,
            model,
            describe_machine(),
            dict(_versions()),
            _commit(),
            date.today().isoformat(),
        )

    def write(self, path: Path) -> None:
        """Write the file, readable by all. Raises GptOssError if it cannot."""
        write(path, json.dumps(asdict(self), indent=2) + "\n", private=False)

    @classmethod
    def read(cls, path: Path) -> "SavedRun":
        """Read a file. Raises GptOssError if it holds no result of a benchmark."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            command, result = str(found["command"]), dict(found["result"])
            bench = found.get("bench") or _bench_of(command)
        except OSError as error:
            raise GptOssError(f"`{path}`: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GptOssError(
                f"`{path}` holds no result of `bench`: write one with `--save {path}`"
            ) from error
        return cls(
            bench,
            command,
            result,
            found.get("settings", {}),
            found.get("model", result.get("model")),
            str(found.get("machine", "")),
            found.get("versions", {}),
            found.get("commit"),
            str(found.get("date", "")),
        )


@dataclass(frozen=True)
class ComparedFigure:
    """One figure in both runs; None where a run does not have it."""

    figure: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """Return b / a."""
        return None if not self.a or self.b is None else self.b / self.a


@dataclass(frozen=True)
class RunComparison:
    """All figures of two runs of one benchmark, and what else differs."""

    bench: str
    figures: tuple[ComparedFigure, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        figures = [asdict(each) | {"ratio": each.ratio} for each in self.figures]
        return asdict(self) | {"figures": figures}


def compare_runs(a: SavedRun, b: SavedRun) -> RunComparison:
    """Compare two runs. Raises GptOssError if they are of different benchmarks."""
    if a.bench != b.bench:
        raise GptOssError(
            f"`bench {a.bench}` and `bench {b.bench}` measure different things: "
            "compare two results of one benchmark"
        )
    ours, theirs = (dict(_figures(run.result, run.settings)) for run in (a, b))
    names = [*ours, *(name for name in theirs if name not in ours)]
    figures = [ComparedFigure(name, ours.get(name), theirs.get(name)) for name in names]
    return RunComparison(a.bench, tuple(figures), tuple(_differences(a, b)))


def _figures(
    found: Any, settings: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, float]]:
    """Yield the dotted name and the value of each figure in a result."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            given = (key, value) in settings.items() or (
                key in IDENTITIES and not isinstance(value, Mapping | list)
            )
            if key not in LEFT_OUT and not given:
                yield from _figures(value, settings, (*path, key))
    elif isinstance(found, list):
        for n, value in enumerate(found):
            yield from _figures(value, settings, (*path, _identity(value, n)))
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield ".".join(path), float(found)


def _identity(entry: Any, position: int) -> str:
    """Return a name for an entry of a list that does not depend on the order."""
    if isinstance(entry, Mapping):
        named = [(key, entry[key]) for key in IDENTITIES if entry.get(key) is not None]
        if named:
            return " ".join(
                str(value) if isinstance(value, str) else f"{key} {value}"
                for key, value in named
            )
    return str(position)


def _differences(a: SavedRun, b: SavedRun) -> Iterator[str]:
    """Yield a line for each thing that makes the figures less comparable."""
    for name in ("model", "machine"):
        one, other = getattr(a, name), getattr(b, name)
        if one != other:
            yield f"{name} differs: {one} / {other}"
    for kind, one, other in (
        ("version of", a.versions, b.versions),
        ("setting", a.settings, b.settings),
    ):
        if not one or not other:
            if one or other:
                yield f"one file does not say its {kind.split()[0]}s"
            continue
        for name in sorted({*one, *other}):
            if name != "model" and one.get(name) != other.get(name):
                yield f"{kind} {name} differs: {one.get(name)} / {other.get(name)}"
    for name, run in (("A", a), ("B", b)):
        load = run.result.get("load_average")
        if isinstance(load, int | float) and load > BUSY:
            yield f"{name} ran beside other work: load average {load:.1f}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue  # mlx-lm is not needed to run ours


def _commit() -> str | None:
    """Return the commit of the checkout this package is in, None outside of one."""
    if not (REPOSITORY / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=7", "HEAD"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _bench_of(command: str) -> str:
    """Return the name of the benchmark in a command of an older file."""
    words = command.split()
    if tuple(words[:2]) != COMMAND_WORDS:
        raise KeyError("bench")
    return words[2]
