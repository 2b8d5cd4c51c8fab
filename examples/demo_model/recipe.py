"""The recipe of the demo model as numbers: streams of rows, phases, schedule."""

from dataclasses import dataclass, replace

from examples.demo_model.data import Mix


@dataclass(frozen=True)
class Stream:
    """Rows of one length; with `every`, in place of the one before now and then."""

    name: str
    length: int
    rows: int
    every: int = 0


_OTHERS = (Stream("tools", 448, 2), Stream("long", 1024, 1, every=5))
SHORT = (Stream("plain", 256, 5), *_OTHERS)
LONGER = (Stream("plain", 384, 3), *_OTHERS)
LAST = (
    Stream("plain", 384, 3),
    Stream("tools", 448, 2),
    Stream("long", 1024, 1, every=8),
)
MORE_TOOLS = (
    Stream("plain", 384, 2),
    Stream("tools", 448, 3),
    Stream("long", 1024, 1, every=8),
)
_TOOLS = Mix(tools=1, arithmetic=0, json=0, long=0)
_LONG = Mix(tools=0.35, arithmetic=0.05, json=0.05, long=0.45)


# Weights: small talk, sums, lists, capitals, declining, JSON, declining beside tools.
_LATE_SKILLS = (1.0, 1.0, 2.2, 0.4, 1.0, 2.2, 0)
_TALK = (2.5, 1.0, 2.0, 0.7, 1.5, 1.6, 0)
_LAST_SKILLS = (1.2, 1.0, 3.0, 0.3, 1.0, 1.6, 0)


def _plain(arithmetic: float, json: float, skills: tuple[float, ...] = ()) -> Mix:
    plain = Mix(tools=0, arithmetic=arithmetic, json=json, long=0)
    return replace(plain, skills=skills) if skills else plain


@dataclass(frozen=True)
class Phase:
    """What the streams draw from; `copies` is the share of rows of random tokens.

    `worded` copies have words and separators, the others are plain repetitions.
    """

    mixes: tuple[Mix, ...]
    copies: float
    worded: bool = False
    streams: tuple[Stream, ...] = LONGER
    drills: float = 0  # share of the plain rows that are columns of sums


# From a step on. What the losses showed: after 1,600 steps the columns of sums were
# written right, and words behind separators were still copied badly.
PHASES = {
    0: Phase(
        (_plain(arithmetic=0.55, json=0.08), _TOOLS, _LONG), copies=0.1, streams=SHORT
    ),
    1600: Phase(
        (_plain(arithmetic=0.42, json=0.1), _TOOLS, _LONG), copies=0.1, streams=SHORT
    ),
    1800: Phase(
        (_plain(arithmetic=0.42, json=0.1), _TOOLS, _LONG),
        copies=0.16,
        worded=True,
        streams=SHORT,
    ),
    3000: Phase(
        (_plain(arithmetic=0.36, json=0.12, skills=_LATE_SKILLS), _TOOLS, _LONG),
        copies=0.12,
        worded=True,
        streams=SHORT,
        drills=0.2,
    ),
    3400: Phase(
        (_plain(arithmetic=0.27, json=0.14, skills=_LATE_SKILLS), _TOOLS, _LONG),
        copies=0.08,
        worded=True,
        streams=SHORT,
        drills=0.4,
    ),
    3800: Phase(
        (_plain(arithmetic=0.5, json=0.1, skills=_LATE_SKILLS), _TOOLS, _LONG),
        copies=0.04,
        worded=True,
        drills=0.25,
    ),
    4400: Phase(
        (_plain(arithmetic=0.45, json=0.14, skills=_LATE_SKILLS), _TOOLS, _LONG),
        copies=0.03,
        worded=True,
        streams=MORE_TOOLS,
        drills=0.08,
    ),
    5000: Phase(
        (_plain(arithmetic=0.46, json=0.08, skills=_LAST_SKILLS), _TOOLS, _LONG),
        copies=0.02,
        worded=True,
        streams=LAST,
    ),
    5800: Phase(
        (_plain(arithmetic=0.5, json=0.06, skills=_TALK), _TOOLS, _LONG),
        copies=0,
        worded=True,
        streams=LAST,
    ),
}


# From a step on: the rate at first and, in a straight line, at the next entry's step.
RATES = (
    (0, 1.0, 1.0),
    (1600, 0.5, 0.368),
    (2600, 0.147, 0.126),
    (3000, 0.145, 0.102),
    (3800, 0.129, 0.103),
    (4200, 0.105, 0.057),
    (5000, 0.09, 0.056),
    (5400, 0.061, 0.034),
    (5800, 0.069, 0.0),
)
WARM_UP = 100
LAST_RATE = 0.02


@dataclass(frozen=True)
class Plan:
    """When what happens, in steps."""

    steps: int = 6300
    copy_steps: int = 350  # repetitions alone, until copying appears
    rounding_from: int = 5980  # straight through MXFP4 and bfloat16


def rate(step: int, plan: Plan) -> float:
    """What part of the optimizer's rates holds at a step."""
    starts = [start for start, _, _ in RATES] + [plan.steps]
    place = max(i for i, start in enumerate(starts[:-1]) if start <= step)
    _, first, last = RATES[place]
    done = (step - starts[place]) / (starts[place + 1] - starts[place])
    warm = min(1, (step + 1) / WARM_UP)
    return max(LAST_RATE * warm, warm * (first + (last - first) * done))
