"""DINO on mixtures, with separation."""
