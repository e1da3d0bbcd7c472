"""Pixels to outputs, fast."""

import sys
from types import ModuleType
from typing import cast

# OpenVINO tells its maker of every import and conversion where it finds this module. Nothing is sent from here.
sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))

import openvino as openvino  # noqa: E402, PLC0414


def has_bf16() -> bool:
    """Whether this processor computes in bfloat16 by itself; others would only imitate it."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
