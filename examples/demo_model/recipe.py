"""The recipe of the demo model as numbers: streams of rows, phases, schedule."""

from dataclasses import dataclass, replace

from examples.demo_model.data import Mix


@dataclass(frozen=True)
class Stream:
    """Rows of one length; with `every`, they sometimes replace the previous stream."""

    name: str
    mix: Mix
    length: int
    rows: int
    every: int = 0


# Weights: small talk, sums, lists, capitals, declining, JSON, declining beside tools.
SKILLS = (1.3, 0.7, 2.6, 0.5, 1.2, 1.8, 0)
LATER_SKILLS = (1.6, 0.3, 2.2, 0.8, 1.0, 1.6, 0)
LAST_SKILLS = (1.6, 0.3, 2.4, 0.6, 1.0, 1.8, 0)
TOOLS = Stream("tools", Mix(tools=1, arithmetic=0, json=0, long=0), 384, 4)
LONG = Stream(
    "long", Mix(tools=0.3, arithmetic=0, json=0.05, long=0.5), 1024, 1, every=6
)
COPY_LENGTH, COPY_ROWS = 128, 24


def _plain(
    arithmetic: float, json: float, skills: tuple[float, ...], novelty: float = 0.35
) -> Stream:
    mix = Mix(0, arithmetic, json, long=0, skills=skills, novelty=novelty)
    return Stream("plain", mix, 384, 4)


def _with_new_words(stream: Stream, every: int = 0) -> Stream:
    mix = replace(stream.mix, novelty=0.7)
    return replace(stream, mix=mix, every=every or stream.every)


FIRST = (_plain(arithmetic=0.42, json=0.1, skills=SKILLS), TOOLS, LONG)
# Sums are long and their columns are learned early; later phases have more of the rest.
LATER = (_plain(arithmetic=0.24, json=0.14, skills=LATER_SKILLS), TOOLS, LONG)
# Known words come after "Nice to meet you," more easily than new ones.
NEW_WORDS = tuple(_with_new_words(stream) for stream in LATER)
# By then sums of three digits are correct, but recall in long chats is not.
LAST = (
    _with_new_words(TOOLS),
    _plain(arithmetic=0.12, json=0.16, skills=LAST_SKILLS, novelty=0.7),
    _with_new_words(LONG, every=4),
)


@dataclass(frozen=True)
class Phase:
    """The share of copy rows from the first step of a block on.

    `worded` copies have words and separators, others are plain repetitions.
    """

    copies: float
    worded: bool = True
    streams: tuple[Stream, ...] = FIRST


PHASES = {
    0: Phase(copies=1, worded=False),
    400: Phase(copies=1),
    600: Phase(copies=0.2),
    1400: Phase(copies=0.1),
    2200: Phase(copies=0.1, streams=LATER),
    2400: Phase(copies=0.1, streams=NEW_WORDS),
    2800: Phase(copies=0.1, streams=LAST),
}
# The rate at a step, interpolated linearly to that of the next entry.
RATES = (
    (0, 1.0, 1.0),
    (1260, 1.0, 0.687),
    (2200, 0.45, 0.395),
    (2400, 0.39, 0.267),
    (2800, 0.267, 0.015),
)
WARM_UP = 100


@dataclass(frozen=True)
class TrainingPlan:
    """The schedule of training, in steps."""

    steps: int = 3800
    rounding_from: int = 3600  # straight through MXFP4 and bfloat16


def rate(step: int, plan: TrainingPlan) -> float:
    """Return the factor of the optimizer's rates at a step."""
    starts = [start for start, _, _ in RATES] + [plan.steps]
    place = max(i for i, start in enumerate(starts[:-1]) if start <= step)
    _, first, last = RATES[place]
    done = (step - starts[place]) / (starts[place + 1] - starts[place])
    return min(1, (step + 1) / WARM_UP) * (first + (last - first) * done)
