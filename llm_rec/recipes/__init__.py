"""Composition roots: a frozen config and a function that runs it."""
