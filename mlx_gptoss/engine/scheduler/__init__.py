"""Many answers at once from one model, in the owner thread: continuous batching.

request.py     one request: what was asked, how far it is, its end
queue.py      those that wait
governor.py   which fit at once, by the bytes of their keys and values
reading.py    whose prompt is read next
feeding.py    a token of each answer through the model
engine.py     the rounds: a chunk of prompts, then a step of every answer
options.py    limits, and the figures of what was done
"""

from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.options import BatchOptions, BatchStatistics
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.engine.scheduler.scheduler import Scheduler

__all__ = ["BatchOptions", "BatchStatistics", "KVBudget", "Request", "Scheduler"]
