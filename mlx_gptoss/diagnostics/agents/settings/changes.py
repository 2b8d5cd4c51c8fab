"""Compute the difference of two settings trees as a list of small changes.

    for change in differences(before, after):
        ...     # SetValue(...), DeleteValue(...), PrependItem(...), MoveToFront(...)

Values are compared strictly: `1`, `1.0` and `true` differ, and NaN equals itself. Knows
trees, not text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SettingPath = tuple[Any, ...]  # names of tables and indices of list items


@dataclass(frozen=True)
class SetValue:
    """Set or add the value at `path`."""

    path: SettingPath
    value: Any


@dataclass(frozen=True)
class DeleteValue:
    """Delete the setting at `path`."""

    path: SettingPath


@dataclass(frozen=True)
class PrependItem:
    """Insert an item at the front of the list at `path`."""

    path: SettingPath
    value: Any


@dataclass(frozen=True)
class MoveToFront:
    """Move item `number` to the front of the list at `path`."""

    path: SettingPath
    number: int


SettingsChange = SetValue | DeleteValue | PrependItem | MoveToFront


def differences(
    before: Any, after: Any, path: SettingPath = ()
) -> Iterator[SettingsChange]:
    """Yield the changes that turn the table `before` into `after`."""
    yield from (DeleteValue((*path, name)) for name in before if name not in after)
    for name, value in after.items():
        if name in before:
            yield from _between(before[name], value, (*path, name))
        else:
            yield SetValue((*path, name), value)


def equal(left: Any, right: Any) -> bool:
    """Whether two trees hold equal values of the same types."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(
            equal(value, right[name]) for name, value in left.items()
        )
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right or (left != left and right != right)


def _between(old: Any, new: Any, path: SettingPath) -> Iterator[SettingsChange]:
    if equal(old, new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from differences(old, new, path)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _between_lists(old, new, path)
    else:
        yield SetValue(path, new)


def _between_lists(
    old: list[Any], new: list[Any], path: SettingPath
) -> Iterator[SettingsChange]:
    if new and equal(new[1:], old):
        yield PrependItem(path, new[0])
    elif (number := _item_moved_to_front(old, new)) is not None:
        yield MoveToFront(path, number)
        yield from _between(old[number], new[0], (*path, 0))
    elif len(old) == len(new):
        for number, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _between(left, right, (*path, number))
    else:
        yield SetValue(path, new)


def _item_moved_to_front(old: list[Any], new: list[Any]) -> int | None:
    """Return the index of the item that was moved to the front, None if none was."""
    for number in range(1, len(old)):
        if equal([*old[:number], *old[number + 1 :]], new[1:]):
            return number
    return None
