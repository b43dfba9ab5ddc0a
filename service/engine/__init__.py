"""The engine process: frames in, frames out; one worker thread runs every model."""
