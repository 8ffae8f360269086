"""Generative retrieval: an encoder-decoder writes the semantic ID of the next item, code by code."""
