"""From a folder in models/ to a frozen, sealed, checked callable."""
