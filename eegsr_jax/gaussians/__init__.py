"""Sums of Gaussians over space and time, rendered at electrodes."""
