"""Measure the server beside its limit, in one run."""
