"""What people would use instead, each doing the same job; run by file in a virtual environment of its own."""
