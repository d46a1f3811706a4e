"""The one training loop, and what it needs: processes, checkpoints, schedules, logs."""
