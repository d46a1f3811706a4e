"""Scoring and metrics: verification, calibration, classification, speech quality, confidence intervals, plots."""
