"""What a trained representation looks like: spectra, gates, codes."""
