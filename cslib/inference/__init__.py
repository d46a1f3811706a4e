"""Trained networks at work: embed or enhance recordings of any length, export a network."""
