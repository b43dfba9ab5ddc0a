"""The compiler's process, and `gradless compile`: packages of frozen models, each held against its eager forward."""
