"""Work on many examples at once: training adapters."""
