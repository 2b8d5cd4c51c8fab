"""Benchmarks of speed and memory, beside mlx-lm under equal conditions.

README.md describes each benchmark, its results, and the files here. Nothing prints;
the command line does.
"""
