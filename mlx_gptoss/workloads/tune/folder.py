"""The folder of a run: its record, its adapter, and whether it may be written to.

tune.json                   what was trained, and how: `run_record.py`
adapter_model.safetensors   the adapter it keeps, with adapter_config.json
log.jsonl                   every step: `run_log.py`
tune_state.safetensors      from where it goes on: `saved_state.py`
"""

from pathlib import Path

from mlx_gptoss.checkpoint.adapters import is_adapter_folder
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import make_folder
from mlx_gptoss.workloads.tune.run_record import RunRecord, read_record
from mlx_gptoss.workloads.tune.saved_state import SavedTraining, read_state


def start_folder(folder: Path, record: RunRecord) -> None:
    """Create the folder of a new run and write its record.

    Raises ConfigError if it has a run or an adapter already.
    """
    if read_record(folder) is not None:
        raise ConfigError(
            f"`{folder}` has a run already: go on with `--resume`, or choose another "
            "folder"
        )
    if folder.is_dir() and is_adapter_folder(folder):
        raise ConfigError(f"`{folder}` has an adapter already: choose another folder")
    make_folder(folder)
    record.write(folder)


def resume_folder(
    folder: Path, record: RunRecord
) -> tuple[RunRecord, SavedTraining | None]:
    """Return the record and the state of a run that goes on.

    The state is None if the run was stopped before it was saved. Raises ConfigError if
    there is no run, or one of another model, other data or options.
    """
    found = read_record(folder)
    if found is None:
        raise ConfigError(f"`{folder}` has no run to go on with: leave `--resume` out")
    found.require_same(record, folder)
    return found, read_state(folder)
