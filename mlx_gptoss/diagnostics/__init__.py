"""Measure and examine: benchmarks, the doctor, checks of coding agents."""
