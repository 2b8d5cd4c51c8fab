"""The commands `convert`, `verify` and `compare`."""
