"""Ollama's API: chat, generate, and the models."""
