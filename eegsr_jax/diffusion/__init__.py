"""Diffusion of arrays of any meaning: noise levels, grids, predictions, steppers, sampling."""
