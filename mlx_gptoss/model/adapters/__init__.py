"""Low-rank adapters: their updates, and applying several at once; knows no files."""

from mlx_gptoss.model.adapters.adapter import Adapter, LowRank
from mlx_gptoss.model.adapters.stack import AdapterStack

__all__ = ["Adapter", "AdapterStack", "LowRank"]
