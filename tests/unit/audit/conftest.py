"""The audit that is drawn, and written as a page; and a fork server that has imported what children need."""

import pytest

from service.audit.figures import MODES, Audit, ModeFigures, in_words
from tests.support.fork_server import start_with_imports


@pytest.fixture(scope="session", autouse=True)
def _imported_once_for_all_children():
    start_with_imports("torch._dynamo")  # which the first optimizer of a process imports, in two seconds


@pytest.fixture
def audit():
    """Figures as they come, and a mode that has none."""
    modes = [
        ModeFigures(
            mode=mode, graph_nodes=7, saved_tensors=9, saved_bytes=10**7, held_bytes=10**6 * size, latency_ms=5.0
        )
        for size, mode in enumerate(MODES)
    ]
    modes[0] = ModeFigures(mode=MODES[0], error="<no targets>")
    modes[0].words = in_words(modes[0])
    return Audit(model="a<b", device="cpu", batch_size=8, weights_bytes=5000, modes=modes)
