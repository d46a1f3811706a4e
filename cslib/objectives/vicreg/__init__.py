"""Pairs of crops without negatives: variance, invariance and covariance."""
