"""`gradless audit`: what gradient control costs and saves, on anybody's model or inference function."""
