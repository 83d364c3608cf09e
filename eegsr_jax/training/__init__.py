"""Training: one loop for any tuple of stages, checkpoints and run directories."""
