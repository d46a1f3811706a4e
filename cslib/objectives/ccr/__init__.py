"""Speech enhancement with curricular contrastive regularization."""
