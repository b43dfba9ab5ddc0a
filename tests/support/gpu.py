"""Tests that need a GPU run where there is one, and say why they do not elsewhere."""

from __future__ import annotations

import pytest
import torch

DEVICE = "cuda:0"

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")

#: How far a probability may be from the direct forward's on a CPU: convolutions on a GPU multiply in TF32, whose
#: outputs the proof allows 3e-3 of the largest.
TOLERANCE = 3e-2
