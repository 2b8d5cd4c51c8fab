"""The state of a run on disk: one file, written whole, from which it goes on.

It holds the trained arrays, the state of the optimizer, and as JSON how far the run is.
The order of the data is a function of seed and position, and nothing else is random
after the start. The best adapter is not in it: it is where its
user finds it, and a run that goes on makes it again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import draft

STATE_FILE = "tune_state.safetensors"
VERSION = "1"
TRAINED, OPTIMIZER = "trained.", "optimizer."

Arrays = Mapping[str, mx.array]


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    step: steps done. position: epoch and batch of the next one. kept_step: that of the
    adapter that is kept; best_loss: its validation loss. Both are None before the
    first. evaluations_without_gain: since then. log_lines: of `log.jsonl`.
    seconds: spent training.
    """

    step: int = 0
    position: tuple[int, int] = (0, 0)
    kept_step: int | None = None
    best_loss: float | None = None
    evaluations_without_gain: int = 0
    log_lines: int = 0
    seconds: float = 0.0
    learned_tokens: int = 0

    def after(self, **changes: Any) -> "RunState":
        """Return the state with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class SavedTraining:
    """What a state file holds."""

    state: RunState
    trained: Arrays
    optimizer: Arrays


def save_state(folder: Path, run: SavedTraining) -> None:
    """Write the state, replacing the last one in one step."""
    arrays = {
        prefix + name: array
        for prefix, group in ((TRAINED, run.trained), (OPTIMIZER, run.optimizer))
        for name, array in group.items()
    }
    facts = {"version": VERSION, "state": json.dumps(asdict(run.state))}
    with draft(folder / STATE_FILE, private=False) as place:
        mx.save_safetensors(str(place), arrays, facts)


def read_state(folder: Path) -> SavedTraining | None:
    """Read the state, or None if there is none.

    Raises CheckpointError for a file that another version or program wrote.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
        arrays, facts = loaded
        if facts.get("version") != VERSION:
            raise KeyError("version")
        found = json.loads(facts["state"])
        state = RunState(**found | {"position": tuple(found["position"])})
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"`{path}` is not the state of a run that this version can go on with "
            f"({error}): delete it, or start in another folder"
        ) from error
    mx.eval(list(arrays.values()))

    def group(prefix: str) -> dict[str, mx.array]:
        return {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }

    return SavedTraining(state, group(TRAINED), group(OPTIMIZER))
