"""Sequential recommenders: item vectors, a causal backbone, a loss."""
