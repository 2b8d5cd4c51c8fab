"""What is on this machine: system, MLX, memory, disk, models, chats. Judges nothing."""

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mlx_gptoss.chat.sessions.checkup import ChatsFileReport, check_chats_file
from mlx_gptoss.checkpoint.hub import Hub, LocalModel
from mlx_gptoss.memory import device_budget, format_bytes
from mlx_gptoss.model.blas import BlasStatus, preload_blas

PACKAGES = ("mlx-gptoss", "mlx", "mlx-lm", "tokenizers", "safetensors")
BACKENDS = ("mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")
OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True)
class Facts:
    """What is on this machine. Bytes are bytes; `macos` is None elsewhere."""

    system: str
    architecture: str
    macos: str | None
    python: str
    packages: dict[str, str | None]
    wheel: str | None  # what MLX's backend was built for: "macosx_14_0_arm64"
    device: str
    metal: bool
    mlx_failure: str | None
    memory: int
    usable_memory: int
    usable_because: str
    blas: BlasStatus
    cache: str
    free_disk: int
    offline: bool
    models: tuple[LocalModel, ...]
    chats: ChatsFileReport | None = None  # where conversations are kept


def collect_facts(hub: Hub) -> Facts:
    """Collect the facts; nothing here fails because something is wrong."""
    device, metal, failure = _device()
    budget = device_budget() if failure is None else None
    cache = hub.folder
    return Facts(
        system=_system(),
        architecture=platform.machine(),
        macos=platform.mac_ver()[0] or None,
        python=platform.python_version(),
        packages={name: _version(name) for name in (*PACKAGES, *_backends())},
        wheel=_wheel(),
        device=device,
        metal=metal,
        mlx_failure=failure,
        memory=_memory(),
        usable_memory=budget.bytes if budget else 0,
        usable_because=budget.source if budget else "MLX does not start",
        blas=preload_blas(),
        cache=str(cache),
        free_disk=_free_disk(cache),
        offline=os.environ.get(OFFLINE, "0") not in ("", "0"),
        models=tuple(hub.list_models()),
        chats=check_chats_file(),
    )


def describe_machine() -> str:
    """Describe this machine in one line, to stand beside a measurement."""
    device, metal, _ = _device()
    cores = f"{os.cpu_count()} cores, {format_bytes(_memory())}"
    gpu = "Metal" if metal else "no GPU"
    return f"{device}, {cores}, {gpu}, {_system()}, mlx {_version('mlx')}"


def _device() -> tuple[str, bool, str | None]:
    """Name MLX's device, say whether it is Metal, and why MLX does not start."""
    try:
        import mlx.core as mx  # noqa: PLC0415 - its failure is a finding
    except (ImportError, OSError) as error:
        return platform.machine(), False, str(error).splitlines()[0]
    name = str(mx.device_info().get("device_name", platform.machine()))
    return name, mx.metal.is_available(), None


def _system() -> str:
    macos = platform.mac_ver()[0]
    return f"macOS {macos}" if macos else f"{platform.system()} {platform.release()}"


def _version(package: str) -> str | None:
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def _backends() -> list[str]:
    return [name for name in BACKENDS if _version(name)]


def _wheel() -> str | None:
    """Return the platform MLX's backend was built for, from its wheel's own tag."""
    for package in (*_backends(), "mlx"):
        try:
            tags = distribution(package).read_text("WHEEL") or ""
        except PackageNotFoundError:
            continue
        found = re.search(r"^Tag: [^-\n]+-[^-\n]+-(\S+)$", tags, re.MULTILINE)
        if found:
            return found[1]
    return None


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_disk(folder: Path) -> int:
    """Return the free bytes where `folder` is, or will be once it is made."""
    here = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(here).free
