"""Learning speech representations without labels. The library knows nothing of recipes, stages or corpora."""
