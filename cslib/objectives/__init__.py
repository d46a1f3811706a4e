"""Training objectives, one package each: objective.py is found by the package name in the config."""
