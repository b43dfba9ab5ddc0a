"""Python runs this at its start where it finds it: OpenVINO is then as if it were not installed."""

import sys

sys.modules["openvino"] = None
