"""PAD: pre-train, align, disentangle (arXiv 2412.04107)."""
