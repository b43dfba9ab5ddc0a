"""The front-end process: HTTP in, JSON out; it never touches a model."""
