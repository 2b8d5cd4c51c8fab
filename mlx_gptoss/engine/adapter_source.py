"""Parse and find adapters, given as `[NAME=]FOLDER|HUB_ID[:SCALE]`.

    source = parse_adapter("french=./adapters/fr:0.5")
    source.name, source.place, source.scale        # "french", "./adapters/fr", 0.5
    folder = find_adapter(source, offline=False)   # may download it

Knows nothing of what is in the folder.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint.hub.adapters import resolve_adapter
from mlx_gptoss.errors import ConfigError

SYNTAX = "[NAME=]FOLDER|HUB_ID[:SCALE]"
# Over HTTP a model is named BASE:NAME, so a name has no colon; nor can it be a path.
NAME = re.compile(r"(?=.*\w)[\w.@+-]{1,96}")
NAMED = re.compile(r"([^=/:]*)=(.*)", re.DOTALL)
SCALED = re.compile(
    r"(.*):([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)", re.ASCII | re.DOTALL
)


@dataclass(frozen=True)
class AdapterSource:
    """An adapter to load: its name, its folder or Hub id, and a factor of its update.

    `named` says that the name was given, not taken from the folder.
    """

    name: str
    place: str
    scale: float = 1.0
    named: bool = True


def parse_adapter(text: str) -> AdapterSource:
    """Parse `[NAME=]FOLDER|HUB_ID[:SCALE]`. Raises ConfigError.

    A folder of exactly that spelling wins over a NAME or a SCALE in it. Without NAME,
    the name is the last part of the folder or Hub id.
    """
    name, place, scale = None, text, 1.0
    if not _is_folder(place) and (found := NAMED.fullmatch(place)):
        name, place = found[1], found[2]
    if not _is_folder(place) and (found := SCALED.fullmatch(place)):
        place, scale = found[1], float(found[2])
    if not place.strip():
        raise ConfigError(f"the adapter `{text}` names no folder: write {SYNTAX}")
    if not math.isfinite(scale):
        raise ConfigError(f"the scale of the adapter `{text}` is not finite: use 1.0")
    named = name is not None
    if name is None:
        name = _last_part(place)
    if not is_adapter_name(name):
        why = "is no name" if named else "gives it no name that can be used"
        raise ConfigError(
            f"`{name}` of the adapter `{text}` {why}: write NAME=FOLDER, with letters, "
            "digits and `.`, `_`, `@`, `+`, `-` in NAME"
        )
    return AdapterSource(name, place, scale, named=named)


def parse_adapters(texts: Sequence[str]) -> tuple[AdapterSource, ...]:
    """Parse several adapters. Raises ConfigError if two have one name."""
    sources = tuple(parse_adapter(text) for text in texts)
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two adapters are named `{name}`: write NAME=FOLDER for one of them"
            )
    return sources


def first_active(sources: Sequence[AdapterSource]) -> str | None:
    """Return the name of the adapter that is active from the start, if any.

    That is the one that was given without a name, unless there are several.
    """
    unnamed = [source.name for source in sources if not source.named]
    return unnamed[0] if len(unnamed) == 1 else None


def only_adapter(sources: Sequence[AdapterSource]) -> str | None:
    """Return the name of the adapter to use where no other can be chosen later.

    A single one, named or not, else the one without a name. Raises ConfigError for
    several of which none is meant.
    """
    if len(sources) == 1:
        return sources[0].name
    active = first_active(sources)
    if sources and active is None:
        names = ", ".join(f"`{source.name}`" for source in sources)
        raise ConfigError(
            f"one adapter answers, and {names} are given: leave out the others"
        )
    return active


def find_adapter(source: AdapterSource, *, offline: bool) -> Path:
    """Return the folder of an adapter, downloading it if necessary.

    Raises HubError if there is none.
    """
    return resolve_adapter(source.place, offline=offline)


def is_adapter_name(name: str) -> bool:
    """Whether an adapter may have this name."""
    return NAME.fullmatch(name) is not None


def _last_part(place: str) -> str:
    path = Path(place)
    if _is_folder(place) and path.name in ("", "..", "~"):
        path = path.expanduser().resolve()  # these have no name of their own
    return path.name


def _is_folder(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # no path at all; `~nobody/x`
        return False
