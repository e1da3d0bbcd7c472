"""Connecting to a Ray cluster, and what its nodes must see."""

import logging
import os
import re
import socket
from pathlib import Path
from typing import Any

from astrodetect.errors import AstrodetectError, ClusterError
from astrodetect.storage.references import is_url

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to Ray's makers
os.environ.setdefault("RAY_worker_niceness", "0")  # of a local cluster: the priority of a run without Ray
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else it prints its own logs to stdout where a process ends
# Where the raylet ends, Ray ends a driver whose parent is process 1 without a word; it asks this id where there is one.
os.environ.setdefault("RAY_RAYLET_PID", str(os.getpid()))
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a future default

import ray
from ray import exceptions

LOCAL = "local"
MODELS_DIR = "ASTRODETECT_MODELS_DIR"  # in the environment of a node
HOST_PORT = re.compile(r"(?:ray://)?([^/:]+):(\d+)")
REACH_WITHIN_S = 10.0
OBJECT_STORE_BYTES = 100 * 2**20  # on this machine: paths travel, pixels do not


def connect_to_ray(address: str) -> None:
    """Connects to a cluster; "local" starts one on this machine."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "num_cpus": os.cpu_count()}
    try:
        if (host_port := HOST_PORT.fullmatch(address)) is not None:  # Ray would try for minutes
            socket.create_connection((host_port[1], int(host_port[2])), REACH_WITHIN_S).close()
        ray.init(address=address, **options)
        ray.put(ClusterError)  # fails, through ray://, where the head lacks the package
    except Exception as error:  # Ray raises any, a bare one where its own processes do not start
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise ClusterError(
            f"cannot connect to the Ray cluster {address}: {reason.rstrip('.')}. "
            "`ray start --head` starts one here, and --ray local needs none; one with tokens needs RAY_AUTH_MODE=token"
        ) from error


def node_error(error: exceptions.RayError) -> Exception | None:
    """The exception of the task itself, or why the node cannot run it; None where the node or its process is lost."""
    cause: Exception | None = error.cause if isinstance(error, exceptions.RayTaskError) else None
    if isinstance(cause, AstrodetectError):
        return cause
    if isinstance(cause, exceptions.RaySystemError) or getattr(error, "actor_init_failed", False):
        reason, address = str(error).strip().splitlines()[-1], re.search(r"ip=([^,)]+)", str(error))
        node = f"the node {address[1]}" if address else "a node"
        remedy = "every node needs the same installation, also of astrodetect itself"
        return ClusterError(f"{node} cannot run astrodetect ({reason}): {remedy}")
    return error if cause is not None else None


def check_visible(reference: str, node: str, folder: Path = Path()) -> None:
    """Raises ClusterError if this node does not see the reference."""
    if reference and not is_url(reference) and not (folder / reference).exists():
        remedy = "share the folder with all nodes, at the same path, or put the images on object storage"
        raise ClusterError(f"the node {node} does not see {reference}: {remedy}")
