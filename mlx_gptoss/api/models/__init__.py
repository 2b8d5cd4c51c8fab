"""The list of models, as clients see it."""
