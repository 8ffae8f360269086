"""Results as JSON, as a table, and as a self-contained page."""
