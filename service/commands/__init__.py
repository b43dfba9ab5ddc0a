"""Commands that run without a server."""
