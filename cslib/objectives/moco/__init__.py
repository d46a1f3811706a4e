"""Contrastive learning with a queue of earlier keys and a momentum encoder."""
