"""LM Studio's own API: OpenAI's replies with statistics, and richer lists of models."""
