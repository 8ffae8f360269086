"""Click models of several domains or tasks: shared and own experts, gates, a tower for each domain or task."""
