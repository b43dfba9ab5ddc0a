"""What goes in and what comes out of a model, by kind of task."""
