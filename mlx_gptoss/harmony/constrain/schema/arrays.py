"""Rules for the items of one array."""

from collections.abc import Sequence

from mlx_gptoss.harmony.constrain.schema.grammar_builder import (
    GrammarBuilder,
    repeated,
)


def write_array(
    rules: GrammarBuilder,
    name: str,
    item: str,
    prefix: Sequence[str],
    least: int,
    most: int | None,
) -> None:
    """Write the rule of an array of `least` to `most` items.

    `prefix` are the rules of the first items, `item` that of all others.
    """
    if least == 0:
        rules.add(name, "NONE")
    if most == 0:
        return
    if not prefix:
        items = repeated(item, max(least, 1), most)
        rules.add(name, f"BEGIN {items} END", [item])
        return
    count = len(prefix)
    after = [f"{name}after{place}" for place in range(1, count + 1)]
    rules.add(name, f"BEGIN {prefix[0]} {after[0]} END", [prefix[0], after[0]])
    for place, rest in enumerate(after[:-1], 1):
        if least <= place:
            rules.add(rest, '""')
        following = after[place]
        rules.add(
            rest, f"COMMA {prefix[place]} {following}", [prefix[place], following]
        )
    if least <= count:
        rules.add(after[-1], '""')
    if most is None or most > count:
        left = None if most is None else most - count
        items = repeated(item, max(least - count, 1), left)
        rules.add(after[-1], f"COMMA {items}", [item])
