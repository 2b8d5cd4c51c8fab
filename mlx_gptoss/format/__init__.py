"""What a checkpoint may be, as data: config, tensor layouts, MXFP4, dtypes."""
