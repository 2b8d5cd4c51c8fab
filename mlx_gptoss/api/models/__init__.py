"""The list of models, and the health of the server."""
