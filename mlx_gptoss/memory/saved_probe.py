"""Measurements of this machine by `mlx-gptoss probe`, saved for later plans."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import config_folder, make_folder, write
from mlx_gptoss.memory.machines import UNKNOWN_MACHINE, Machine, find_chip
from mlx_gptoss.memory.units import UNITS

PROBE_FILE = "probe.json"


@dataclass(frozen=True)
class Probe:
    """Measured rates of a device: bytes per second, seconds per synchronization.

    `experts` is the rate at which experts are multiplied; older probes lack it.
    """

    device: str
    ssd: float
    bandwidth: float
    sync_seconds: float
    experts: float | None = None


def probe_file() -> Path:
    return config_folder() / PROBE_FILE


def save_probe(probe: Probe, path: Path | None = None) -> Path:
    """Save a measurement for later plans; return its file."""
    path = path or probe_file()
    make_folder(path.parent)
    write(path, json.dumps(asdict(probe), indent=2) + "\n")
    return path


def load_probe(path: Path | None = None) -> Probe | None:
    """Return the saved measurement, or None. Raises ConfigError for a damaged file."""
    path = path or probe_file()
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Probe(
            str(raw["device"]),
            *(float(raw[key]) for key in ("ssd", "bandwidth", "sync_seconds")),
            experts=float(raw["experts"]) if raw.get("experts") else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`{path}` cannot be read ({type(error).__name__}): delete it, then run "
            "`mlx-gptoss probe`"
        ) from error


def describe_this_machine(path: Path | None = None) -> Machine:
    """Describe this machine: as probed, else by the table of chips, else by a guess."""
    import mlx.core as mx  # noqa: PLC0415 - sizes and texts are needed without MLX

    facts = mx.device_info()
    device = str(facts.get("device_name", ""))
    memory = int(facts.get("memory_size", 0))
    chip = find_chip(device, round(memory / UNITS["GIB"]))
    machine = chip.machine() if chip else UNKNOWN_MACHINE
    probe = load_probe(path)
    if probe is None or probe.device != device:
        return machine
    return replace(
        machine,
        name=device or machine.name,
        bandwidth=probe.bandwidth,
        ssd=probe.ssd,
        sync_seconds=probe.sync_seconds,
        expert_rate=probe.experts,
        measured=True,
        source="measured here by `mlx-gptoss probe`",
    )
