"""The machine that a benchmark ran on, and the memory and CPU time of processes."""

import datetime as dt
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
)
VERSIONED = ("tensorflow", "keras", "openvino", "onnxruntime", "fastapi", "uvicorn", "numpy", "pillow")


def describe() -> dict[str, Any]:
    """Date, processor, memory, versions."""
    fields = {}
    for line in read(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "busy_before": psutil.cpu_percent(0.5) / 100,  # CPU share of other processes
        "system": platform.platform(),
        "versions": {name: version(name) for name in VERSIONED} | {"python": platform.python_version()},
    }


def cores() -> int:
    """The number of logical processors."""
    return os.cpu_count() or 1


def memory_mb(pid: int) -> tuple[float, float]:
    """Peak RSS and present PSS of a process and its descendants, each summed; plain RSS outside Linux."""
    peak = pss = 0.0
    for process in family(pid):
        status = dict(
            line.split(":", 1) for line in read(Path(f"/proc/{process.pid}/status")).splitlines() if ":" in line
        )
        information = process.memory_full_info()
        peak += int(status["VmHWM"].split()[0]) * 1024 if "VmHWM" in status else information.rss
        pss += getattr(information, "pss", information.rss)
    return peak / 1e6, pss / 1e6


def cpu_s(pid: int) -> float:
    """CPU time of a process and its descendants."""
    return sum(sum(process.cpu_times()[:2]) for process in family(pid))


def family(pid: int) -> list[psutil.Process]:
    """The process and its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def read(path: Path) -> str:
    """The file's text; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
