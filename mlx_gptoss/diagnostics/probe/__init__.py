"""Measure what plans of this machine depend on: `mlx-gptoss probe`.

disk.py          reads of a fresh file, past the page cache
device.py        memory, and waiting for the device
products.py      linear layers, experts and attention, by size and rows
layers.py        the layers, from a cache and from memory
small_models.py  random models from prompt to answer
costs.py         costs of the parts of a forward pass, from the two
stopwatch.py     timing in rounds
busy.py          whether other programs were in the way
"""

from pathlib import Path

import mlx.core as mx

from mlx_gptoss.diagnostics.probe.busy import BusyWatch
from mlx_gptoss.diagnostics.probe.costs import measure_costs
from mlx_gptoss.diagnostics.probe.device import measure_memory, measure_sync
from mlx_gptoss.diagnostics.probe.disk import DISK_BYTES, measure_disk
from mlx_gptoss.diagnostics.probe.products import LARGEST, expert_bytes, measure_experts
from mlx_gptoss.diagnostics.probe.stopwatch import ProbeScale
from mlx_gptoss.diagnostics.progress import ReportProgress
from mlx_gptoss.engine.thread_policy import batch_policy
from mlx_gptoss.files import user_home
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.memory.saved_probe import Probe
from mlx_gptoss.model.blas import preload_blas

__all__ = [
    "ProbeScale",
    "measure_experts",
    "measure_memory",
    "measure_sync",
    "probe",
]


def probe(
    folder: Path | None = None,
    *,
    size: int = DISK_BYTES,
    progress: ReportProgress,
    scale: ProbeScale = ProbeScale(),  # noqa: B008 - it is frozen
    watch: BusyWatch | None = None,
) -> Probe:
    """Measure this machine and the disk that holds `folder`.

    Temporarily uses `size` bytes of the disk. A busy machine, or one that the sum of
    costs does not describe, shows in the result's `doubts`. Raises GptOssError if the
    disk has no room. Takes some 15 seconds. Peak memory: about 700 MB.
    """
    folder = folder or user_home()
    watch = watch or BusyWatch()
    progress(f"writing {format_bytes(size)} and reading it past the cache")
    disk = measure_disk(folder, size)
    watch.spin()
    with batch_policy():  # as in the engine
        progress("reading memory on the device")
        bandwidth = measure_memory(scale.matrix_rows)
        progress("waiting for the device, layer by layer")
        sync = measure_sync()
        watch.spin()
        progress("multiplying with layers of several sizes, and running small models")
        found = measure_costs(folder, scale)
        watch.spin()
    one = found.costs.experts.seconds(3 * LARGEST * LARGEST, 1)
    return Probe(
        str(mx.device_info().get("device_name", "")),
        disk.rate,
        bandwidth,
        sync,
        experts=expert_bytes() / one if one else None,
        read_seconds=disk.latency,
        costs=found.costs,
        blas=preload_blas().optimized,
        doubts=tuple(watch.reasons(found.spread) + found.doubts),
    )
