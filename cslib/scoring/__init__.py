"""From embeddings and trials to scores, error rates, confidence intervals and plots."""
