"""Imports the package before any test imports MLX: it lends MLX its BLAS."""

import mlx_gptoss  # noqa: F401 - see mlx_gptoss/blas.py
