"""Write numbers and strings: as terminals, or as schemas that the library compiles.

Strings with a pattern or a format, and multiples of a number, are left to the library
(`%json`). A keyword that it does not support is ignored and noted.
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
NOT_PLAIN = r"[^eE]*(\.0+|[eE][^eE]*)"  # notations in which multiples are not checked
IPV6 = r"^([0-9a-fA-F]{0,4}:){2,7}([0-9]{1,3}\.){3}[0-9]{1,3}$"  # with an IPv4 in it
UnsupportedReason = Callable[[Mapping[str, Any]], str | None]


class Scalars:
    """Writes the alternatives of numbers and strings into `rules`.

    `unsupported_reason` says why the library cannot compile a schema; `note` takes the
    field and the keyword of what is ignored. `exact` becomes False once more is allowed
    than a schema allows.
    """

    def __init__(
        self,
        rules: GrammarBuilder,
        unsupported_reason: UnsupportedReason,
        note: Callable[[str, str], None],
        *,
        drop_contradictions: bool,
    ) -> None:
        self.unsupported_reason = unsupported_reason
        self.exact = True
        self._rules = rules
        self._note = note
        self._drop_contradictions = drop_contradictions
        self._names: dict[str, str] = {}  # of rules, by their text

    def long_number(self, value: Any) -> str | None:
        """Return a terminal for a number with too many digits for a range, or None."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if comparable(to_decimal(value)):
            return None
        ways = {json.dumps(value), json_text(value)}
        return self._rules.terminal(" | ".join(json.dumps(one) for one in sorted(ways)))

    def number(self, value_set: Number, where: str) -> Iterable[str]:
        terminal = number_terminal(
            value_set.low, value_set.high, integral=value_set.integral
        )
        if terminal is None:
            return
        plain = terminal == number_terminal()
        name = "NUMBER" if plain else self._rules.terminal(terminal)
        if not value_set.multiples:
            yield name
            return
        self.exact = False  # 10.0 and 1e1 are not checked
        kept: list[Mapping[str, Any]] = []
        for multiple in value_set.multiples:
            kind = "integer" if value_set.integral else "number"
            own = {"type": kind, "multipleOf": multiple}
            if self.unsupported_reason(own):
                self._note(where, "multipleOf")
                yield name
                return
            kept.append(own)
        low = value_set.low and float(value_set.low.value)
        high = value_set.high and float(value_set.high.value)
        bounds = {
            key: value
            for key, value, bound in (
                ("minimum", low, value_set.low),
                ("maximum", high, value_set.high),
            )
            if bound is not None
        }
        own = {"allOf": [*kept, {"type": "number", **bounds}]}
        yield self.library_rule(
            own if self.unsupported_reason(own) is None else kept[0]
        )
        yield self._rules.terminal(f"({terminal}) & /{NOT_PLAIN}/")

    def text(self, value_set: Text, where: str) -> Iterable[str]:
        if not value_set.patterns and not value_set.formats:
            bounded = value_set.least or value_set.most is not None
            terminal = terminals.length_terminal(value_set.least, value_set.most)
            yield self._rules.terminal(terminal) if bounded else "STRING"
            return
        parts: list[tuple[str, Mapping[str, Any]]] = []
        if value_set.least or value_set.most is not None:
            most = {} if value_set.most is None else {"maxLength": value_set.most}
            parts.append(("maxLength", {"minLength": value_set.least, **most}))
        parts += [("format", {"format": name}) for name in value_set.formats]
        parts += [("pattern", {"pattern": one}) for one in value_set.patterns]
        kept: list[Mapping[str, Any]] = []
        for keyword, part in parts:
            reason = self.unsupported_reason(_string(*kept, part))
            if reason is None:
                kept.append(part)
            elif "nsatisfiable" in reason and not self._drop_contradictions:
                return
            else:
                self._note(where, keyword)
        yield self.library_rule(_string(*kept)) if kept else "STRING"
        if value_set.formats == ("ipv6",) and len(parts) == 1:
            yield self.library_rule(_string({"pattern": IPV6}))

    def library_rule(self, schema: Mapping[str, Any]) -> str:
        """Return the rule of a schema that the library compiles."""
        text = f"%json {json.dumps({**schema, 'x-guidance': OPTIONS})}"
        if text not in self._names:
            self._names[text] = self._rules.new_name()
            self._rules.add(self._names[text], text)
        return self._names[text]


def _string(*parts: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(parts) == 1:
        return {"type": "string", **parts[0]}
    return {"allOf": [{"type": "string", **part} for part in parts]}
