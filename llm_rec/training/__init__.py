"""One training loop over tasks, its phases and its checkpoints."""
