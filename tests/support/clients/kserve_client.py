"""Ask servers with kserve's REST client: calls as JSON from standard input, what each returned or raised as JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

DTYPES = {"FP32": np.float32, "INT64": np.int64, "UINT8": np.uint8}


async def main(calls):
    found = {}
    for name, call in calls.items():
        async with InferenceRESTClient(RESTConfig(protocol=call["protocol"])) as client:
            arguments = call["arguments"]
            if "inputs" in call:
                arguments["data"] = request(arguments["model_name"], call)
            try:
                found[name] = {"returned": told(await getattr(client, call["method"])(call["url"], **arguments))}
            except Exception as error:
                found[name] = {"raised": type(error).__name__, "words": str(error)}
    return found


def request(model, call):
    inputs = []
    for each in call["inputs"]:
        data, is_binary = each["data"], each["is_binary"]
        if each["datatype"] == "BYTES":
            files = [base64.b64decode(text) if is_binary else text for text in data]
            array = np.array(files, np.object_).reshape(each["shape"])
        else:
            array = np.array(data, DTYPES[each["datatype"]]).reshape(each["shape"])
        inputs.append(InferInput(each["name"], each["shape"], each["datatype"]))
        inputs[-1].set_data_from_numpy(array, binary_data=is_binary)
    outputs = [RequestedOutput(name, parameters) for name, parameters in call.get("outputs", [])]
    return InferRequest(model, inputs, call.get("id"), request_outputs=outputs, parameters=call.get("parameters"))


def told(answer):
    if not isinstance(answer, InferResponse):
        return answer
    outputs = {
        each.name: {"datatype": each.datatype, "shape": each.shape, "data": values(each)} for each in answer.outputs
    }
    return {"model": answer.model_name, "id": answer.id, "outputs": outputs}


def values(output):
    if output.datatype == "BYTES":
        return output.data
    return output.as_numpy().tolist()


if __name__ == "__main__":
    json.dump(asyncio.run(main(json.load(sys.stdin)["calls"])), sys.stdout)
