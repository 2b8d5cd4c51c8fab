"""`tune.json`: what a run was started with, so that it can go on and be reported."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import write
from mlx_gptoss.workloads.tune.options import TuneOptions

RECORD_FILE = "tune.json"
MAY_CHANGE = ("save_every", "patience")  # when a run goes on
VERSION = 1


@dataclass(frozen=True)
class RunRecord:
    """The facts of a run.

    model: as the user named it. model_digest: of its config and weights. data, valid:
    the files. data_digest: of their content and the settings. options: of
    `TuneOptions`, settings: of `CorpusSettings`, as JSON. conversations: the examples
    that are rendered as Harmony. start: the digest of the adapter that was trained on.
    """

    model: str
    model_digest: str
    data: str
    data_digest: str
    options: dict[str, Any]
    settings: dict[str, Any]
    valid: str | None = None
    start: str | None = None
    documents: int = 0
    validation_documents: int = 0
    conversations: int = 0
    steps: int = 0
    made_with: str = ""
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write the record, replacing an older one."""
        text = json.dumps(asdict(self), indent=2)
        write(folder / RECORD_FILE, text + "\n", private=False)

    def require_same(self, other: "RunRecord", folder: Path) -> None:
        """Raise ConfigError if a run with this record cannot go on as `other`."""
        theirs = other._decisive()
        for name, value in self._decisive().items():
            if theirs[name] != value:
                raise ConfigError(
                    f"`{folder}` was started with {name} `{value}`, not "
                    f"`{theirs[name]}`: go on with the same, or start in another folder"
                )

    def _options(self) -> dict[str, Any]:
        """Return all options; an older run has the defaults of those added since."""
        return TuneOptions.from_json(self.options).as_json()

    def _decisive(self) -> dict[str, Any]:
        options = {k: v for k, v in self._options().items() if k not in MAY_CHANGE}
        return options | {
            "model digest": self.model_digest,
            "data digest": self.data_digest,
            "start": self.start,
        }


def read_record(folder: Path) -> RunRecord | None:
    """Read the record of a folder, or None if it has none.

    Raises ConfigError for one that this version cannot read.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {each.name for each in fields(RunRecord)}
        if found.get("version") != VERSION or set(found) - known:
            raise ValueError("it is of another version")
        return RunRecord(**found)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"`{path}` is not the record of a run ({error}): choose another folder"
        ) from error
