"""Decide what each tensor becomes: recipes, rules, sizes, estimates."""

from mlx_gptoss_convert.plan.plan import make_plan

__all__ = ["make_plan"]
