"""Write JSON as the model has seen it: compact, unescaped letters, shortest numbers."""

import json
import math
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]  # a JSON object

INT_RANGE = range(-(2**63), 2**64)  # outside it the reference writes a float
FIXED_EXPONENTS = range(-5, 16)  # floats within it are written without `e`


def json_text(value: Any) -> str:
    """Return `value` as JSON without spaces, as openai-harmony writes it in prompts."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if value in INT_RANGE else _float(_as_float(value))
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        pairs = (f"{_string(str(k))}:{json_text(v)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(json_text, value)) + "]"
    return _string(str(value))


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _as_float(value: int) -> float:
    """Return the nearest float, as the reference does; infinite if there is none."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _float(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return "null"
    text = repr(value)
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    power = int(exponent)
    if power in FIXED_EXPONENTS:
        digits = mantissa.replace(".", "").lstrip("-")
        sign = "-" if value < 0 else ""
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    return f"{mantissa}e{power:+d}" if power > 0 else f"{mantissa}e{power}"
