"""Contrastive Separative Coding."""
