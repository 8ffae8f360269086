"""What a trained representation looks like: spectra, gates, codes, and what sequence models attend to."""
