"""Bytes to arrays, in the front end."""
