"""What a worker makes of CUDA graphs: whatever goes wrong, the model answers as it was proven."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from service.engine.model import CannotRecordError
from service.engine.worker import Worker


@dataclass
class Recordable:
    """A served model that records what it is told to, unless that is `failing`; its proof then says `refusal`."""

    failing: Exception | None = None
    check_failing: Exception | None = None
    refusal: str = ""
    sizes: list[int] = field(default_factory=lambda: [1, 2, 4])
    cap: int = 4
    cuda_graphs: list[int] = field(default_factory=list)
    loaded: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="m"))

    def record_cuda_graphs(self, sizes):
        if self.failing:
            raise self.failing
        self.cuda_graphs = sizes

    def forget_cuda_graphs(self):
        self.cuda_graphs = []

    def check(self, sizes):
        assert sizes == [1, 4]
        if self.check_failing:
            raise self.check_failing
        figures = SimpleNamespace(batch_seconds={1: 0.001, 4: 0.002})
        return SimpleNamespace(refusal=self.refusal, figures=figures)


def test_what_is_replayed_and_proven_again_answers_and_its_times_are_told():
    model = Recordable()
    assert Worker._record_cuda_graphs(None, model) == {1: 0.001, 4: 0.002}
    assert model.cuda_graphs == [1, 2, 4]


@pytest.mark.parametrize(
    "model",
    [
        Recordable(failing=CannotRecordError("it waits for the GPU")),
        Recordable(check_failing=RuntimeError("out of memory")),
        Recordable(refusal="repeatable: it is not"),
    ],
    ids=["not recorded", "not checked", "not proven"],
)
def test_what_cannot_be_replayed_is_launched(model):
    assert Worker._record_cuda_graphs(None, model) == {}
    assert model.cuda_graphs == []
