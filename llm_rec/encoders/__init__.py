"""Text encoders: the only rooms that know transformers, sentence-transformers and peft."""
