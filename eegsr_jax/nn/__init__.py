"""Linen building blocks; they know nothing about EEG."""
