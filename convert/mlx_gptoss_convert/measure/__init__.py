"""Prove and measure conversions: byte checks, KL divergence, calibration, reports."""
