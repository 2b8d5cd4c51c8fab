"""Checkpoint formats as data: config, tensor layouts, MXFP4, dtypes, file names."""
