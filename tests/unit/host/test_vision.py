"""torchvision comes without dynamo, and whoever wants dynamo gets the real one. Each in a process of its own.

All of them are forks of one process, which has imported torch for them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "serving needs none of it": """
import service.supervisor.preload, service.engine.process, service.loader.load, service.tasks.inputs.picture
assert not {"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys()
""",
    "who compiles later gets the real one": """
import service.host.vision, torch
import torch._dynamo
assert torch._dynamo.__file__ and torch._dynamo.utils.counters is not None
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
""",
    "what torchvision took meanwhile asks the real one": """
import service.host.vision, importlib
roi_align = importlib.import_module("torchvision.ops.roi_align")
answers = {device: roi_align.is_compile_supported(device) for device in ("cpu", "mps", "meta")}
from torch._dynamo.utils import is_compile_supported
assert answers == {device: is_compile_supported(device) for device in answers}
""",
    "a name that nobody foresaw is the real one's": """
from service.host.vision import _without_dynamo
with _without_dynamo():
    from torch._dynamo.utils import counters
import torch._dynamo.utils
assert torch._dynamo.utils.__file__ and counters is torch._dynamo.utils.counters
""",
    "nor a part of it": """
from service.host.vision import _without_dynamo
with _without_dynamo():
    import torch._dynamo.config
    from torch._dynamo.exc import Unsupported
import torch._dynamo.exc
assert torch._dynamo.__file__ and torch._dynamo.config.__file__
assert sys.modules["torch._dynamo.config"] is torch._dynamo.config
assert Unsupported is torch._dynamo.exc.Unsupported
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
""",
    "its decorator may be called first": """
from service.host.vision import _without_dynamo
import torch
with _without_dynamo():
    once = torch.compiler.disable(recursive=False)(len)
assert once is len
assert "torch._dynamo" not in sys.modules
""",
    "who was there before stays": """
import torch._dynamo as before
import service.host.vision, torch
assert torch._dynamo is before
""",
    "a transform works": """
from service.host.vision import InterpolationMode, transforms
import torch
image = transforms.resize(torch.zeros((3, 8, 8), dtype=torch.uint8), [4], interpolation=InterpolationMode.BILINEAR)
assert image.shape == (3, 4, 4)
assert "torch._dynamo" not in sys.modules
""",
}


#: What is asked of the first import of torchvision: these forks have not imported it.
FIRST = ["serving needs none of it", "who was there before stays"]
FORKS = """
import json, os, sys, traceback
import torch

def run(program):
    reading, writing = os.pipe()
    if not os.fork():
        try:
            exec("import sys" + program, {})
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
            os._exit(1)
        os.write(writing, b"right")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as words:
        told = words.read()
    os.wait()
    return told or "it died"

programs, first = json.loads(sys.argv[1])
told = {name: run(programs[name]) for name in first}
import service.host.vision
told |= {name: run(program) for name, program in programs.items() if name not in told}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", FORKS, json.dumps([PROGRAMS, FIRST])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_a_process_of_its_own(name, told):
    assert told[name] == "right"
