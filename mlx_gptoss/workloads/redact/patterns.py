"""Patterns and checksums that need no model: `find_patterns`.

A model without context misses numbers; these do not need any. Each is strict enough to
be right nearly always: a card's number has a checksum and an issuer's prefix, an IBAN a
checksum and its country's length (python-stdnum), a key the prefix that its issuer
documents. Searching takes time in proportion to the text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import regex

from mlx_gptoss.workloads.redact.spans import PrivateSpan

EMAIL, ACCOUNT, PHONE, SECRET, URL = (
    "private_email",
    "account_number",
    "private_phone",
    "secret",
    "private_url",
)
CERTAIN = 1.0


@dataclass(frozen=True)
class PrivatePattern:
    """A pattern by name; what it matches counts if `check` accepts it.

    `group` is the part that is private.
    """

    name: str
    category: str
    expression: "regex.Pattern[str]"
    check: Callable[[str], bool] | None = None
    group: int = 0


# Prefixes and lengths of issuers (ISO/IEC 7812): Visa, Mastercard, American Express,
# Diners, JCB, Discover, UnionPay, Maestro.
CARD = regex.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d"
    r"|2720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12,15}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|62\d{14,17}|(?:50|5[6-8]|6[37])\d{14}"
)


def _compile(expression: str) -> Any:
    return regex.compile(expression, regex.VERBOSE | regex.VERSION1)


def is_card(text: str) -> bool:
    """Whether it is a card's number: an issuer's prefix and length, Luhn's checksum."""
    from stdnum import luhn  # noqa: PLC0415 - only where something looks like one

    digits = "".join(filter(str.isdigit, text))
    return CARD.fullmatch(digits) is not None and luhn.is_valid(digits)


def is_iban(text: str) -> bool:
    """Whether it is an IBAN: a known country, its length, and the checksum."""
    from stdnum import iban  # noqa: PLC0415

    return iban.is_valid(text.replace("\u00a0", " "), check_country=False)


LEFT, RIGHT = r"(?<![\p{L}\p{N}])", r"(?![\p{L}\p{N}])"
PATTERNS = (
    PrivatePattern(
        "email",
        EMAIL,
        _compile(
            r"""(?<![\p{L}\p{N}._%+\-])
            [\p{L}\p{N}_%+\-]++(?:\.[\p{L}\p{N}_%+'\-]++){0,20}+
            @(?:[\p{L}\p{N}](?:[\p{L}\p{N}\-]{0,62})\.){1,10}\p{L}{2,63}"""
            + RIGHT
        ),
    ),
    PrivatePattern(
        "card",
        ACCOUNT,
        _compile(
            r"(?<![\p{L}\p{N}]|\d[.,])(?=[3456]|2[2-7])\d(?:[ \u00a0\-]?\d){12,18}+"
            + RIGHT
        ),
        is_card,
    ),
    PrivatePattern(
        "iban",
        ACCOUNT,
        _compile(LEFT + r"[A-Z]{2}\d{2}(?:[ \u00a0]?[A-Z0-9]{1,4}){3,9}" + RIGHT),
        is_iban,
    ),
    PrivatePattern(
        "phone",  # in international form, which nothing else has
        PHONE,
        _compile(
            r"(?<![\p{L}\p{N}+])\+[1-9](?:[\ \u00a0.\-/]?\(?\d\)?){6,14}+" + RIGHT
        ),
    ),
    PrivatePattern(
        "private key",
        SECRET,
        _compile(
            r"""-----BEGIN\ (?P<kind>[A-Z0-9\ ]{0,40}?PRIVATE\ KEY(?:\ BLOCK)?)-----
            [^\-]{0,20000}+-----END\ (?P=kind)-----"""
        ),
    ),
    PrivatePattern(
        "json web token",
        SECRET,
        _compile(LEFT + r"eyJ[\w\-]{10,}+\.eyJ[\w\-]{10,}+\.[\w\-]{10,}+" + RIGHT),
    ),
    PrivatePattern(
        "api key",
        SECRET,
        # As their issuers document them.
        _compile(
            LEFT
            + r"""(?:
            sk-(?:proj-|ant-|svcacct-|or-v1-)?[\w\-]{20,200}+  # OpenAI, Anthropic
            |(?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}+  # Stripe
            |gh[pousr]_[A-Za-z0-9]{36,}+|github_pat_\w{22,}+       # GitHub
            |glpat-[\w\-]{20,}+                                    # GitLab
            |(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}                   # AWS
            |AIza[\w\-]{35}                                        # Google
            |ya29\.[\w\-]{20,}+
            |xox[abeoprs]-[A-Za-z0-9\-]{10,}+|xapp-[A-Za-z0-9\-]{10,}+  # Slack
            |hf_[A-Za-z0-9]{30,}+                                  # Hugging Face
            |npm_[A-Za-z0-9]{36}|pypi-[\w\-]{50,}+
            |SG\.[\w\-]{20,}+\.[\w\-]{20,}+                        # SendGrid
            |SK[0-9a-f]{32}|AC[0-9a-f]{32}                         # Twilio
            |dop_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}
            |AGE-SECRET-KEY-1[A-Z0-9]{58}
            )"""
            + RIGHT
        ),
    ),
    PrivatePattern(
        "password in a url",
        SECRET,
        _compile(
            r"[a-zA-Z][a-zA-Z0-9+.\-]{1,20}+://[^\s/:@]{0,200}+:([^\s/@]{1,200}+)@"
        ),
        group=1,
    ),
    PrivatePattern(
        "bearer token",
        SECRET,
        _compile(r"(?i:bearer|basic)\ ([A-Za-z0-9._~+/\-]{20,}+=*+)"),
        group=1,
    ),
)


def find_patterns(text: str) -> list[PrivateSpan]:
    """Return what the patterns find; spans may overlap."""
    return [span for pattern in PATTERNS for span in _matches(pattern, text)]


def _matches(pattern: PrivatePattern, text: str) -> Iterator[PrivateSpan]:
    for match in pattern.expression.finditer(text):
        start, end = match.span(pattern.group)
        if pattern.check is not None:
            end = _longest(text, start, end, pattern.check)
        if start < end:
            yield PrivateSpan(start, end, pattern.category, CERTAIN, (pattern.name,))


def _longest(text: str, start: int, end: int, check: Callable[[str], bool]) -> int:
    """Return the end of the longest part from `start` on that is right.

    A match may run on into the next word or number; parts end before a separator.
    """
    while end > start:
        if check(text[start:end]):
            return end
        before = text[start:end].rstrip()
        cut = max((before.rfind(one) for one in " \u00a0-"), default=-1)
        end = start + cut if cut > 0 else start
    return start
