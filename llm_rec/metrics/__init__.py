"""Metrics, slices of targets, and significance."""
