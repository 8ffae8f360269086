"""ctr_models: features (and behaviours) -> logits. A leaf library."""
