"""Open Inference Protocol v2, with Triton's extensions for binary data, classification, configuration and statistics.

Sources: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md;
github.com/triton-inference-server/server, docs/protocol.
"""
