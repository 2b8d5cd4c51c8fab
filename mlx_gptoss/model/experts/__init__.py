"""How the experts of a layer lie in memory, and how tokens are sent through them."""
