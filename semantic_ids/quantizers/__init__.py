"""Quantisers: one small file each."""
