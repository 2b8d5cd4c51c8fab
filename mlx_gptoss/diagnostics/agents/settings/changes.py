"""Tell what an edit changed in a tree of settings, as a list of small changes.

    for change in differences(before, after):
        ...                     # Put(...), Drop(...), First(...), Move(...)

Values are compared strictly: `1`, `1.0` and `true` are three values to whoever reads
a settings file, and NaN is the NaN it was. Knows trees, not text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[Any, ...]  # names of tables and numbers of list items


@dataclass(frozen=True)
class Put:
    """Give the setting at `path` this value; it need not be there yet."""

    path: Path
    value: Any


@dataclass(frozen=True)
class Drop:
    """Take the setting at `path` away."""

    path: Path


@dataclass(frozen=True)
class First:
    """Put an item before all others of the list at `path`."""

    path: Path
    value: Any


@dataclass(frozen=True)
class Move:
    """Bring item `number` of the list at `path` before all others."""

    path: Path
    number: int


Change = Put | Drop | First | Move


def differences(before: Any, after: Any, path: Path = ()) -> Iterator[Change]:
    """Yield the changes that make `after` of `before`, two tables."""
    yield from (Drop((*path, name)) for name in before if name not in after)
    for name, value in after.items():
        if name in before:
            yield from _between(before[name], value, (*path, name))
        else:
            yield Put((*path, name), value)


def same(left: Any, right: Any) -> bool:
    """Whether two trees hold the same values of the same types."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(
            same(value, right[name]) for name, value in left.items()
        )
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or (left != left and right != right)


def _between(old: Any, new: Any, path: Path) -> Iterator[Change]:
    if same(old, new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from differences(old, new, path)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _between_lists(old, new, path)
    else:
        yield Put(path, new)


def _between_lists(old: list[Any], new: list[Any], path: Path) -> Iterator[Change]:
    if new and same(new[1:], old):
        yield First(path, new[0])
    elif (number := _moved(old, new)) is not None:
        yield Move(path, number)
        yield from _between(old[number], new[0], (*path, 0))
    elif len(old) == len(new):
        for number, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _between(left, right, (*path, number))
    else:
        yield Put(path, new)


def _moved(old: list[Any], new: list[Any]) -> int | None:
    """Which item of a list is the first of the new one, the others as they were."""
    for number in range(1, len(old)):
        if same([*old[:number], *old[number + 1 :]], new[1:]):
            return number
    return None
