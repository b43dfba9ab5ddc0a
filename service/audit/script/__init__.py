"""`gradless audit --script`: sensors around a user's own function, and the pitfalls that they find."""
