"""The alternatives, each doing the same job; each file runs in a virtual environment of its own."""
