"""Compare the resources of a kernel with its limits. Numbers in, a reason out."""

from mlx_gptoss.chat.tools.notebook.kernel_monitor import MAX_LOCKS, KernelUsage
from mlx_gptoss.chat.tools.notebook.sandbox import NotebookLimits
from mlx_gptoss.memory import format_bytes

MAX_THREADS = 512  # each takes memory of the system that no other limit counts


def exceeded_limit(usage: KernelUsage, limits: NotebookLimits) -> str:
    """Return which limit the code has exceeded; "" for none."""
    if usage.memory > limits.memory:
        return _over_memory(usage, limits)
    if usage.drive_bytes > limits.drive_bytes:
        most = format_bytes(limits.drive_bytes)
        return f"the code kept more than {most} in files"
    if usage.files > limits.files:
        return f"the code kept more than {limits.files} files and folders"
    if usage.threads > MAX_THREADS:
        return f"the code started more than {MAX_THREADS} threads"
    if usage.locks > MAX_LOCKS:
        return f"the code held more than {MAX_LOCKS} locks on files"
    return ""


def _over_memory(usage: KernelUsage, limits: NotebookLimits) -> str:
    in_files = format_bytes(usage.memory_in_files)
    files = f", {in_files} of it in files" if usage.memory_in_files else ""
    return f"the code took more than {format_bytes(limits.memory)} of memory{files}"
