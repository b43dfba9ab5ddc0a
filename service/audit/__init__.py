"""`gradless audit`: the costs and savings of gradient control, on any model or inference function."""
