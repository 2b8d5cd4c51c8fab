"""Numbers and strings in a grammar: rules of our own, or schemas of the library's.

Strings with a pattern or a format, and multiples of a number, are left to the library
(`%json`). Where it cannot keep a keyword, that one is left out and named.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlx_gptoss.harmony.constrain.schema import terminals
from mlx_gptoss.harmony.constrain.schema.grammar_builder import GrammarBuilder
from mlx_gptoss.harmony.constrain.schema.numbers import comparable, number_terminal
from mlx_gptoss.harmony.constrain.schema.value_sets import Number, Text, to_decimal
from mlx_gptoss.harmony.json_text import json_text

OPTIONS = {"whitespace_flexible": False}  # of the library
NOT_PLAIN = r"[^eE]*(\.0+|[eE][^eE]*)"  # numbers of which multiples are not known
IPV6 = r"^([0-9a-fA-F]{0,4}:){2,7}([0-9]{1,3}\.){3}[0-9]{1,3}$"  # with an IPv4 in it
UnsupportedReason = Callable[[Mapping[str, Any]], str | None]


class Scalars:
    """Writes the alternatives of numbers and strings into `rules`.

    `refuses` says why the library cannot keep a schema; `free` is told the field and
    the keyword. They are not `exact` once they let more through than a schema says.
    """

    def __init__(
        self,
        rules: GrammarBuilder,
        refuses: UnsupportedReason,
        free: Callable[[str, str], None],
        *,
        forgiving: bool,
    ) -> None:
        self.unsupported_reason = refuses
        self.exact = True
        self._rules = rules
        self._free = free
        self._forgiving = forgiving
        self._names: dict[str, str] = {}  # of rules, by what they write

    def long_number(self, value: Any) -> str | None:
        """The terminal of a number with too many digits for a range; else None."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if comparable(to_decimal(value)):
            return None
        ways = {json.dumps(value), json_text(value)}
        return self._rules.terminal(" | ".join(json.dumps(one) for one in sorted(ways)))

    def number(self, shape: Number, where: str) -> Iterable[str]:
        terminal = number_terminal(shape.low, shape.high, integral=shape.integral)
        if terminal is None:
            return
        plain = terminal == number_terminal()
        name = "NUMBER" if plain else self._rules.terminal(terminal)
        if not shape.multiples:
            yield name
            return
        self.exact = False  # 10.0 and 1e1 are not looked at
        kept: list[Mapping[str, Any]] = []
        for multiple in shape.multiples:
            kind = "integer" if shape.integral else "number"
            own = {"type": kind, "multipleOf": multiple}
            if self.unsupported_reason(own):
                self._free(where, "multipleOf")
                yield name
                return
            kept.append(own)
        low = shape.low and float(shape.low.value)
        high = shape.high and float(shape.high.value)
        bounds = {
            key: value
            for key, value, bound in (
                ("minimum", low, shape.low),
                ("maximum", high, shape.high),
            )
            if bound is not None
        }
        own = {"allOf": [*kept, {"type": "number", **bounds}]}
        yield self.library_rule(
            own if self.unsupported_reason(own) is None else kept[0]
        )
        yield self._rules.terminal(f"({terminal}) & /{NOT_PLAIN}/")

    def text(self, shape: Text, where: str) -> Iterable[str]:
        if not shape.patterns and not shape.formats:
            bounded = shape.least or shape.most is not None
            terminal = terminals.length_terminal(shape.least, shape.most)
            yield self._rules.terminal(terminal) if bounded else "STRING"
            return
        parts: list[tuple[str, Mapping[str, Any]]] = []
        if shape.least or shape.most is not None:
            most = {} if shape.most is None else {"maxLength": shape.most}
            parts.append(("maxLength", {"minLength": shape.least, **most}))
        parts += [("format", {"format": name}) for name in shape.formats]
        parts += [("pattern", {"pattern": one}) for one in shape.patterns]
        kept: list[Mapping[str, Any]] = []
        for keyword, part in parts:
            reason = self.unsupported_reason(_string(*kept, part))
            if reason is None:
                kept.append(part)
            elif "nsatisfiable" in reason and not self._forgiving:
                return
            else:
                self._free(where, keyword)
        yield self.library_rule(_string(*kept)) if kept else "STRING"
        if shape.formats == ("ipv6",) and len(parts) == 1:
            yield self.library_rule(_string({"pattern": IPV6}))

    def library_rule(self, schema: Mapping[str, Any]) -> str:
        """The rule of a schema that is left to the library."""
        text = f"%json {json.dumps({**schema, 'x-guidance': OPTIONS})}"
        if text not in self._names:
            self._names[text] = self._rules.new_name()
            self._rules.add(self._names[text], text)
        return self._names[text]


def _string(*parts: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(parts) == 1:
        return {"type": "string", **parts[0]}
    return {"allOf": [{"type": "string", **part} for part in parts]}
