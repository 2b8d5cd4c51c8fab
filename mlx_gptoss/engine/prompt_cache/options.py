"""How much of what was read is kept, and where.

Knows sizes and folders; keeps nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.files import CACHE_VARIABLE, cache_folder, environment_folder
from mlx_gptoss.memory import Plan, parse_bytes

DEFAULT_LIMIT = 2**30  # bytes of memory, where there is no plan of it
FREE_MEMORY_FRACTION = 0.5  # of the memory that the plan leaves


@dataclass(frozen=True)
class CacheOptions:
    """What a PromptCache may take.

    `memory` bounds what is kept beside the conversation in use; None takes half of
    what the plan of the model leaves free. `disk` bounds the files of all models
    under `folder`; 0 writes nothing and reads nothing. `idle` allows reading ahead
    while nobody asks. Sizes are bytes, or text such as "4GB".
    """

    memory: str | int | None = None
    disk: str | int = 0
    folder: Path | None = None
    idle: bool = True

    def limit(self, plan: Plan | None) -> int:
        """Bytes in memory, the conversation in use included."""
        if self.memory is not None:
            return parse_bytes(self.memory) if self.memory else 0
        if plan is None:
            return DEFAULT_LIMIT
        free = max(plan.budget.bytes - plan.total_bytes, 0)
        return plan.kv_bytes + int(free * FREE_MEMORY_FRACTION)

    @property
    def disk_bytes(self) -> int:
        return parse_bytes(self.disk) if self.disk else 0

    @property
    def root(self) -> Path:
        return self.folder or default_folder()


def default_folder() -> Path:
    """Return $MLX_GPTOSS_CACHE, else where caches of this user belong."""
    return environment_folder(CACHE_VARIABLE) or cache_folder() / "prompts"
