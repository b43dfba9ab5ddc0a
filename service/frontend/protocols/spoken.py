"""The protocols that a front end speaks: a line for each."""

from __future__ import annotations

from service.frontend.protocols.hugging_face import HuggingFace
from service.frontend.protocols.kserve_v1 import KServeV1
from service.frontend.protocols.native import Native
from service.frontend.protocols.open_inference.exchange import OpenInference
from service.frontend.protocols.protocol import Protocol
from service.frontend.protocols.sagemaker import SageMaker
from service.frontend.protocols.vertex import Vertex


def protocols() -> list[Protocol]:
    """Return one of each; a refusal has the form of the first one whose path it is, and the last one has them all."""
    return [OpenInference(), KServeV1(), Vertex(), SageMaker(), HuggingFace(), Native()]
