"""Metrics, protocols, honest tables and reports."""
