"""Contrastive learning with the negatives of the batch."""
