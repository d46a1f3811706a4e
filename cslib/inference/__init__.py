"""Inference with trained networks: embed or enhance recordings of any length, export a network."""
