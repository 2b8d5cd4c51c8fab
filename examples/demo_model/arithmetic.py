"""Sums and differences worked in columns, as the demo model writes them."""

import hashlib

from examples.demo_model.words import Words

PLACES = ("ones", "tens", "hundreds")
CARRY = {"+": "carry", "-": "borrow"}
# Digits of the operands; the model should be good at three.
DIGITS_ASKED = ((3, 3), (3, 3), (3, 3), (3, 2), (2, 3), (2, 2), (2, 2), (3, 1))
DIGITS_TAUGHT = ((3, 3),) * 6 + ((3, 2), (2, 3), (2, 2), (3, 1), (1, 3))
HELD_OUT_SHARE = 0.1  # of all pairs of operands, by hash: never seen in training


def is_held_out(first: int, second: int, sign: str) -> bool:
    """Whether a problem is held out for evaluation, decided by its hash."""
    digest = hashlib.sha256(f"{first}{sign}{second}".encode()).digest()
    return digest[0] < 256 * HELD_OUT_SHARE


def draw(words: Words) -> tuple[int, int, str]:
    """Draw two operands and a sign; for `-` the first is nearly always the larger."""
    while True:
        digits = words.pick(DIGITS_ASKED if words.held_out else DIGITS_TAUGHT)
        if words.chance(0.12 if words.held_out else 0.1):
            digits = (1, words.pick([1, 2, 3]))
        first, second = (_with_digits(words, count) for count in digits)
        sign = words.pick("+-")
        if sign == "-" and first < second and not words.chance(0.06):
            first, second = second, first
        if is_held_out(first, second, sign) == words.held_out:
            return first, second, sign


def _with_digits(words: Words, digits: int) -> int:
    lowest = 0 if digits == 1 else 10 ** (digits - 1)
    return words.rng.randint(lowest, 10**digits - 1)


def question(words: Words, first: int, second: int, sign: str) -> str:
    """Ask for the result in one of the common ways."""
    if words.chance(0.35):
        return _question_in_words(words, first, second, sign)
    gap = words.pick([" ", " ", ""])
    term = f"{first}{gap}{sign}{gap}{second}"
    form = words.pick(
        [
            "What is {}?",
            "What is {}?",
            "{}",
            "{}=",
            "{} = ?",
            "Calculate {}",
            "Compute {}.",
            "what is {}",
            "What's {}?",
            "How much is {}?",
            "Please compute {}",
            "Solve {}",
            "Can you compute {}?",
            "{}?",
            "What does {} equal?",
        ]
    )
    return form.format(term)


def _question_in_words(words: Words, first: int, second: int, sign: str) -> str:
    plus = [
        "Add {a} and {b}",
        "Add {a} and {b}.",
        "What is {a} plus {b}?",
        "{a} plus {b}",
        "Sum of {a} and {b}?",
        "What is the sum of {a} and {b}?",
        "How much is {a} plus {b}?",
        "Add {a} to {b}",
        "Please add {a} and {b}.",
    ]
    minus = [
        "What is {a} minus {b}?",
        "{a} minus {b}",
        "Subtract {b} from {a}",
        "Subtract {b} from {a}.",
        "What is the difference of {a} and {b}?",
        "How much is {a} minus {b}?",
        "Take {b} away from {a}.",
        "Please subtract {b} from {a}",
    ]
    return words.pick(plus if sign == "+" else minus).format(a=first, b=second)


def column_result(x: int, y: int, carry: int, sign: str) -> tuple[int, int]:
    """Return the digit of one column and what it carries or borrows."""
    total = x + y + carry if sign == "+" else x - y - carry
    return total % 10, int(total > 9 or total < 0)


def counting(x: int, y: int, carry: int, sign: str) -> str:
    """Count `y` steps from `x` with its carry: pairs of the digit reached and the
    steps left, such as `75 84 93 02 11 20` for 7+5.

    Each pair follows from the previous one, so a tiny model can learn the steps,
    while it does not learn the 400 sums of two digits and a carry.
    """
    step = 1 if sign == "+" else -1
    reached = x + step * carry
    return " ".join(
        f"{(reached + step * done) % 10}{y - done}" for done in range(y + 1)
    )


def columns(first: int, second: int, sign: str) -> tuple[list[str], str, int]:
    """Work from the right; return the lines, the digits and the last carry."""
    top, bottom = f"{first:03d}", f"{second:03d}"
    lines, digits, carry = [], "", 0
    for place, x, y in zip(PLACES, top[::-1], bottom[::-1], strict=True):
        digit, next_carry = column_result(int(x), int(y), carry, sign)
        asked = f"{place} {x}{sign}{y}{sign}{carry}"
        counted = counting(int(x), int(y), carry, sign)
        digits = f"{digit}{digits}"
        carried = f"{CARRY[sign]} {next_carry}"
        lines.append(f"{asked} {counted}={digit} {carried} digits {digits}")
        carry = next_carry
    return lines, digits, carry


def working(first: int, second: int, sign: str) -> tuple[str, str]:
    """Write the worked columns, identical at every effort, and the result in words."""
    top, bottom = f"{first:03d}", f"{second:03d}"
    pairs = ", ".join(
        f"{place} {x}{sign}{y}"
        for place, x, y in zip(PLACES[::-1], top, bottom, strict=True)
    )
    lines, digits, carry = columns(first, second, sign)
    padded = f"{first}={top}{sign}{second}={bottom}"
    core = f"{padded}: {pairs}; {', '.join(lines)}; {carry}{digits}"
    if sign == "-" and carry:
        return core, "below zero"
    return core, str(first + second if sign == "+" else first - second)


def arithmetic(words: Words, effort: str) -> tuple[str, str, str]:
    """Return the user's text, the analysis and the final answer of one problem."""
    first, second, sign = draw(words)
    core, result = working(first, second, sign)
    analysis = {
        "low": f"{core} is {result}.",
        "medium": f"I work in columns. {core}, so the result is {result}.",
        "high": f"The user wants the result of {first}{sign}{second}. I write both "
        f"numbers with three digits and work from the right. {core} is the row of "
        f"digits. Without zeros in front, the result is {result}.",
    }[effort]
    final = f"{first} {sign} {second} = {result}"
    if result == "below zero":
        final = f"{first} {sign} {second} is below zero. I can not do that."
    return question(words, first, second, sign), analysis, final
