"""The authors' parameters and conventions, read from arrays."""
