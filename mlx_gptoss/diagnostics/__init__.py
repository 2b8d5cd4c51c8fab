"""Benchmarks, machine diagnosis, and checks of coding agents."""
