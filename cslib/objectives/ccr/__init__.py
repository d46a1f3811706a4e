"""Speech enhancement with curricular contrastive regularisation."""
