"""The front end's side of the engines."""
