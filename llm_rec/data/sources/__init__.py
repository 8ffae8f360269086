"""Adapters from public raw files to a catalog and a log."""
