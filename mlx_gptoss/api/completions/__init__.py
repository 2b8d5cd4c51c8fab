"""Raw completions: wire types, requests, replies; no HTTP."""
