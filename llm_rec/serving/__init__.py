"""Trained recommenders without their training data."""
