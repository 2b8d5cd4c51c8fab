"""Token ids of texts and conversations, and back: vLLM's and llama.cpp's routes."""
