"""semantic_ids: dense vectors -> discrete codes -> vectors. A leaf library."""
