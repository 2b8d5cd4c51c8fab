"""The commands `convert`, `verify`, `compare` and `bench convert`."""
