"""Write conversions: files, the journal, Hugging Face and GGUF outputs."""
