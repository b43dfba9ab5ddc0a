"""The loader: a folder in models/ becomes a frozen, sealed, proven module."""
