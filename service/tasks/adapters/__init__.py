"""Arrays to a module's input, and its outputs to results, in the engine and the compiler."""
