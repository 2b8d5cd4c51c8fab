"""Decide what each tensor becomes: recipes, rules, sizes, estimates."""
