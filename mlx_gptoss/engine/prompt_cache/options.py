"""Limits of the prompt cache in memory and on disk, and its folder."""

from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.files import CACHE_VARIABLE, cache_folder, environment_folder
from mlx_gptoss.memory import Plan, parse_bytes

DEFAULT_LIMIT = 2**30  # bytes in memory without a memory plan
FREE_MEMORY_FRACTION = 0.5  # of the memory that the plan leaves free


@dataclass(frozen=True)
class CacheOptions:
    """Limits of the prompt cache. Sizes are bytes, or text such as "4GB".

    memory: most bytes in memory; None takes half of what the memory plan of the model
        leaves free, beside the conversation in use.
    disk: most bytes of files, of all models together; 0 uses no disk.
    folder: where the files are; None: $MLX_GPTOSS_CACHE, or the user's cache folder.
    requests: forget what none of so many requests has used; None keeps it while there
        is memory. For piles of prompts that share a beginning and are not continued.
    idle: allow `Runtime.prepare` to prefill while there is no other work.
    """

    memory: str | int | None = None
    disk: str | int = 0
    folder: Path | None = None
    requests: int | None = None
    idle: bool = True

    def limit(self, plan: Plan | None) -> int:
        """Return the most bytes in memory, the conversation in use included."""
        if self.memory is not None:
            return parse_bytes(self.memory) if self.memory else 0
        if plan is None:
            return DEFAULT_LIMIT
        free = max(plan.budget.bytes - plan.total_bytes, 0)
        return plan.kv_bytes + int(free * FREE_MEMORY_FRACTION)

    @property
    def disk_bytes(self) -> int:
        """The most bytes on disk."""
        return parse_bytes(self.disk) if self.disk else 0

    @property
    def root(self) -> Path:
        """The folder of the files."""
        return self.folder or default_folder()


def default_folder() -> Path:
    """Return $MLX_GPTOSS_CACHE, else a folder in the user's cache folder."""
    return environment_folder(CACHE_VARIABLE) or cache_folder() / "prompts"
