"""Gradless serves frozen PyTorch models over HTTP and proves that serving builds no gradient graph."""

__version__ = "0.1.0"
