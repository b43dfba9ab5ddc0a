"""Protocols that clients speak: each turns requests into the core's, and the core's results into its answers."""
