"""The training loop and what it needs: options, processes, batches, optimisers, logs and the folder of a run."""
