"""Measurements of this machine by `mlx-gptoss probe`, saved for later plans."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import config_folder, make_folder, write
from mlx_gptoss.memory.costs import Costs
from mlx_gptoss.memory.machines import (
    UNKNOWN_MACHINE,
    Machine,
    find_chip,
    guess_cpu,
)
from mlx_gptoss.memory.units import UNITS

PROBE_FILE = "probe.json"


@dataclass(frozen=True)
class Probe:
    """Measured rates of a device: bytes per second, seconds per synchronization.

    `experts` is the rate at which experts are multiplied, `read_seconds` the latency of
    the disk, `costs` the seconds of the parts of a forward pass; older probes lack
    them. `blas` tells whether an optimized BLAS multiplied. `doubts` say why the
    figures may be wrong: the machine was busy.
    """

    device: str
    ssd: float
    bandwidth: float
    sync_seconds: float
    experts: float | None = None
    read_seconds: float = 0.0
    costs: Costs | None = None
    blas: bool | None = None
    doubts: tuple[str, ...] = ()


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
            read_seconds=float(raw.get("read_seconds", 0)),
            costs=Costs.from_json(raw["costs"]) if raw.get("costs") else None,
            blas=raw.get("blas"),
            doubts=tuple(str(reason) for reason in raw.get("doubts", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"`{path}` cannot be read ({type(error).__name__}): delete it, then run "
            "`mlx-gptoss probe`"
        ) from error


def describe_this_machine(path: Path | None = None) -> Machine:
    """Describe this machine: as probed, else by the table of chips, else by a guess."""
    import mlx.core as mx  # noqa: PLC0415 - sizes and texts are needed without MLX

    from mlx_gptoss.model.blas import preload_blas  # noqa: PLC0415
    from mlx_gptoss.model.device import on_gpu  # noqa: PLC0415

    facts = mx.device_info()
    device = str(facts.get("device_name", ""))
    memory = int(facts.get("memory_size", 0))
    chip = find_chip(device, round(memory / UNITS["GIB"]))
    optimized = preload_blas().optimized
    unknown = UNKNOWN_MACHINE if on_gpu() else guess_cpu(optimized_blas=optimized)
    machine = chip.machine() if chip else unknown
    probe = load_probe(path)
    if probe is None or probe.device != device:
        return machine
    if probe.blas not in (None, optimized):
        return replace(machine, source="it was probed with another BLAS")
    return _describe_probed(replace(machine, name=device or machine.name), probe)


def _describe_probed(machine: Machine, probe: Probe) -> Machine:
    source = "measured here by `mlx-gptoss probe`"
    if probe.costs is None:
        source += " of an older version: run it again"
    elif probe.doubts:
        source += f", although {'; '.join(probe.doubts)}"
    return replace(
        machine,
        bandwidth=probe.bandwidth,
        ssd=probe.ssd,
        sync_seconds=probe.sync_seconds,
        expert_rate=probe.experts,
        read_seconds=probe.read_seconds,
        measured=True,
        source=source,
        costs=probe.costs,
    )
