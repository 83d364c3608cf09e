"""Recordings, data sets, the window store, splits and pipelines."""
