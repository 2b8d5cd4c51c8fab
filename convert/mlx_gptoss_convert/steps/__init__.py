"""Steps of a conversion: operations on single tensors, and their codecs."""
