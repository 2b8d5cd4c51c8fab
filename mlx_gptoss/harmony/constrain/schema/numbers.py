r"""Write ranges of JSON numbers as regular expressions.

    number_terminal(low=Bound(Decimal(0), False))       # greater than 0
    number_terminal(integral=True)                      # whole, in any notation

Covers plain notation, and scientific notation with a mantissa from 0.1 to below 1000.
Bounds are compared digit by digit, so their size is unlimited.
"""

from dataclasses import dataclass
from decimal import Decimal

E = "[eE]"
EXPONENT = f"({E}[+-]?[0-9]+)?"
UNSIGNED = rf"(0|[1-9][0-9]*)(\.[0-9]+)?{EXPONENT}"
POSITIVE = rf"(0\.0*[1-9][0-9]*|[1-9][0-9]*(\.[0-9]+)?){EXPONENT}"
ZERO = rf"0(\.0+)?{EXPONENT}"
NUMBER = f"-?{UNSIGNED}"
MAX_FRACTION = 17  # digits behind the point of a whole number: 1.5e3
MANTISSAS = (0, 1, 2, 3)  # digits before the point; 0: 0.1 and more
FORMS = {
    0: r"0\.[1-9][0-9]*",
    **{n: rf"[1-9][0-9]{{{n - 1}}}(\.[0-9]+)?" for n in (1, 2, 3)},
}
MAX_DIGITS = 64  # of a bound


@dataclass(frozen=True)
class Bound:
    """One bound of a range, inclusive or not."""

    value: Decimal
    inclusive: bool = True

    @property
    def mirrored(self) -> "Bound":
        return Bound(-self.value, self.inclusive)


def number_terminal(
    low: Bound | None = None, high: Bound | None = None, *, integral: bool = False
) -> str | None:
    """Return a Lark terminal for the numbers of a range; None if it is empty."""
    if low is None and high is None:
        return f"/{_integral()}/" if integral else f"/{NUMBER}/"
    parts = []
    if (positive := _magnitudes(low, high)) is not None:
        parts.append(positive)
    mirrored = (high and high.mirrored, low and low.mirrored)
    if (negative := _magnitudes(*mirrored)) is not None:
        parts.append(f'"-" ({negative})')
    if not parts:
        return None
    found = " | ".join(parts)
    return f"({found}) & /{_integral()}/" if integral else found


def comparable(value: Decimal) -> bool:
    """Whether a bound has few enough digits to be compared digit by digit."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return len(digits) + abs(exponent) <= MAX_DIGITS


def _magnitudes(low: Bound | None, high: Bound | None) -> str | None:
    """Match the unsigned numbers of a range; None if there are none."""
    ways = []
    if high is not None:
        if high.value < 0 or (high.value == 0 and not high.inclusive):
            return None
        ways.append(ZERO if high.value == 0 else _at_most(high))
    if low is not None and (low.value > 0 or (low.value == 0 and not low.inclusive)):
        ways.append(_at_least(low) if low.value else POSITIVE)
    return " & ".join(f"/{way}/" for way in ways or [UNSIGNED])


def _at_most(bound: Bound) -> str:
    return _or(ZERO, _plain_most(bound), *_scientific(bound, _plain_most, _below))


def _at_least(bound: Bound) -> str:
    return _or(_plain_least(bound), *_scientific(bound, _plain_least, _above))


def _scientific(bound: Bound, compare: object, side: object) -> list[str]:
    """Match mantissas with an exponent on one `side`, or compared at the equal one."""
    assert callable(compare) and callable(side)
    ways = []
    for digits in MANTISSAS:
        exponent = bound.value.adjusted() + 1 - digits
        equal = compare(Bound(_shifted(bound.value, -exponent), bound.inclusive))
        ways.append(f"{FORMS[digits]}{E}{side(exponent)}")
        ways.append(f"{equal}{E}{_exactly(exponent)}")
    return ways


def _shifted(value: Decimal, places: int) -> Decimal:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return Decimal((sign, digits, exponent + places))


def _plain_most(bound: Bound) -> str:
    whole, rest = _digits(bound.value)
    ways = [rf"{_whole_below(whole)}(\.[0-9]+)?"] if whole != "0" else []
    fraction = _fraction_most(rest, inclusive=bound.inclusive)
    return _or(*ways, *([] if fraction is None else [whole + fraction]))


def _plain_least(bound: Bound) -> str:
    whole, rest = _digits(bound.value)
    fraction = _fraction_least(rest, inclusive=bound.inclusive)
    return _or(rf"{_whole_above(whole)}(\.[0-9]+)?", whole + fraction)


def _digits(value: Decimal) -> tuple[str, str]:
    """Return the digits before and behind the point, without trailing zeros."""
    whole, _, rest = format(value, "f").partition(".")
    return whole, rest.rstrip("0")


def _whole_below(whole: str) -> str:
    """Match whole numbers less than `whole`, which is not 0."""
    shorter = ["0", f"[1-9][0-9]{{0,{len(whole) - 2}}}"] if len(whole) > 1 else []
    return _or(*shorter, *_less(whole, least=0 if len(whole) == 1 else 1))


def _less(digits: str, *, least: int = 0) -> list[str]:
    """Match as many digits with a lower value; the first is at least `least`."""
    ways = []
    for place, digit in enumerate(digits):
        first = least if place == 0 else 0
        if int(digit) > first:
            rest = len(digits) - place - 1
            ways.append(f"{digits[:place]}[{first}-{int(digit) - 1}][0-9]{{{rest}}}")
    return ways


def _whole_above(whole: str) -> str:
    """Match whole numbers greater than `whole`."""
    ways = [f"[1-9][0-9]{{{len(whole)},}}"]
    for place, digit in enumerate(whole):
        if digit != "9":
            rest = len(whole) - place - 1
            ways.append(f"{whole[:place]}[{int(digit) + 1}-9][0-9]{{{rest}}}")
    return _or(*ways)


def _fraction_most(rest: str, *, inclusive: bool) -> str | None:
    """Match an optional fraction of at most 0.`rest`."""
    if not rest:
        return r"(\.0+)?" if inclusive else None
    ways = [f"{rest}0*"] if inclusive else []
    ways += [rest[:place] for place in range(1, len(rest))]
    ways += [
        f"{rest[:place]}[0-{int(digit) - 1}][0-9]*"
        for place, digit in enumerate(rest)
        if digit != "0"
    ]
    return rf"(\.{_or(*ways)})?"


def _fraction_least(rest: str, *, inclusive: bool) -> str:
    """Match a fraction of at least 0.`rest`."""
    if not rest:
        return r"(\.[0-9]+)?" if inclusive else r"\.[0-9]*[1-9][0-9]*"
    ways = [f"{rest}[0-9]*" if inclusive else f"{rest}[0-9]*[1-9][0-9]*"]
    ways += [
        f"{rest[:place]}[{int(digit) + 1}-9][0-9]*"
        for place, digit in enumerate(rest)
        if digit != "9"
    ]
    return rf"\.{_or(*ways)}"


def _exactly(exponent: int) -> str:
    if exponent == 0:
        return "[+-]?0+"
    return rf"\+?0*{exponent}" if exponent > 0 else f"-0*{-exponent}"


def _below(exponent: int) -> str:
    if exponent > 0:
        return rf"(-[0-9]+|\+?0*{_whole_below(str(exponent))})"
    return f"-0*{_whole_above(str(-exponent))}"


def _above(exponent: int) -> str:
    if exponent >= 0:
        return rf"\+?0*{_whole_above(str(exponent))}"
    return rf"(\+?[0-9]+|-0*{_whole_below(str(-exponent))})"


def _integral() -> str:
    """Match whole numbers in any notation: 3, 3.0, 3e2, 3.25e2."""
    fractions = (
        rf"\.[0-9]{{{digits}}}0*{E}\+?0*{_or(str(digits), _whole_above(str(digits)))}"
        for digits in range(1, MAX_FRACTION + 1)
    )
    tails = _or(r"(\.0+)?", rf"(\.0+)?{E}\+?[0-9]+", *fractions)
    return f"-?((0|[1-9][0-9]*){tails}|{ZERO})"


def _or(*ways: str) -> str:
    return ways[0] if len(ways) == 1 else f"({'|'.join(ways)})"
