"""Verify and measure conversions: byte checks, KL divergence, calibration, speed."""
