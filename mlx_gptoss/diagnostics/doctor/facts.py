"""Collect facts about this machine: system, MLX, memory, disk, models, saved chats."""

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mlx_gptoss.chat.sessions.checkup import ChatsFileReport, check_chats_file
from mlx_gptoss.checkpoint.hub import Hub, LocalModel
from mlx_gptoss.memory import device_budget, format_machine_memory
from mlx_gptoss.model.blas import BlasStatus, preload_blas

PACKAGES = ("mlx-gptoss", "mlx", "mlx-lm", "tokenizers", "safetensors")
BACKENDS = ("mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")
OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True)
class Facts:
    """Facts about this machine; sizes in bytes, `macos` None on other systems."""

    system: str
    architecture: str
    macos: str | None
    python: str
    packages: dict[str, str | None]
    wheel: str | None  # platform of MLX's backend, like "macosx_14_0_arm64"
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
    chats: ChatsFileReport | None = None  # the file of saved conversations


def collect_facts(hub: Hub) -> Facts:
    """Collect the facts; a problem on the machine is a fact, not an error."""
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
    """Describe this machine in one line, for a measurement."""
    device, metal, _ = _device()
    cores = f"{os.cpu_count()} cores, {format_machine_memory(_memory())}"
    gpu = "Metal" if metal else "no GPU"
    return f"{device}, {cores}, {gpu}, {_system()}, mlx {_version('mlx')}"


def _device() -> tuple[str, bool, str | None]:
    """Return MLX's device, whether it is Metal, and why MLX does not start."""
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
    """Return the free bytes on the disk where `folder` is or will be created."""
    here = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(here).free
