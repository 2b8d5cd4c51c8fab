"""Plan conversions: recipes, rules, layouts, sizes and estimates."""

from mlx_gptoss_convert.plan.plan import make_plan

__all__ = ["make_plan"]
