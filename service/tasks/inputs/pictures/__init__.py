"""Picture files: one reader a format for what the header says, and the decoders that follow it."""
