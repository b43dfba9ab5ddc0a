"""A model's inputs and outputs, by the process that handles them."""
