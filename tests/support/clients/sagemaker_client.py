"""Encode arrays with sagemaker-inference, ask a server, and decode what it answers with the same package."""

from __future__ import annotations

import json
import sys

import httpx
import numpy as np
from sagemaker_inference import content_types, decoder, encoder


def main(calls):
    found = {}
    for name, call in calls.items():
        body = encoder.encode(np.array(call["array"], call["dtype"]), call["content_type"])
        headers = {"Content-Type": call["content_type"], "Accept": call["accept"]}
        answer = httpx.post(call["url"], content=body, headers=headers)
        kind = answer.headers["content-type"].partition(";")[0]
        content = answer.text if kind in content_types.UTF8_TYPES else answer.content
        decoded = decoder.decode(content, kind) if answer.status_code == 200 else content
        found[name] = {"status": answer.status_code, "content_type": kind, "body": np.asarray(decoded).tolist()}
    return found


if __name__ == "__main__":
    json.dump(main(json.load(sys.stdin)["calls"]), sys.stdout)
