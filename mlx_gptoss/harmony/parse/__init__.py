"""Parse token ids into events, one id at a time; never raise."""
