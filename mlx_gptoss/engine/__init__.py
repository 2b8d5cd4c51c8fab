"""A loaded model at work: requests, scheduling, sampling, the prompt cache."""
