"""`gradless audit --script`: the same sensors round somebody's own function, and the pitfalls that they find."""
