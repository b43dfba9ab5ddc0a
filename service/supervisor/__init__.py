"""The process tree: started, watched, replaced, drained."""
