"""Messages between processes, and the beginning of each child."""
