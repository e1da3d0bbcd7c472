"""The custom resources of deploy/kubernetes as KubeRay and the Prometheus operator define them, where they are used.

A field that is not listed here is an error, so that a misspelt one is found. Kubernetes itself defines the pods.
"""

# ruff: noqa: N815 - fields are spelt as in the manifests

from typing import Annotated, Any, Literal

import kubernetes_validate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NEWEST_KUBERNETES = str(kubernetes_validate.latest_version())
OLDEST_KUBERNETES = "1.30"


def validate_pod_template(template: dict[str, Any]) -> dict[str, Any]:
    """ValidationError unless Kubernetes accepts the pods of a custom resource."""
    validate_core({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}, "template": template})
    return template


def validate_core(document: dict[str, Any]) -> None:
    """ValidationError unless the oldest and the newest Kubernetes know the object and every field of it."""
    for version in (OLDEST_KUBERNETES, NEWEST_KUBERNETES):
        kubernetes_validate.validate(document, version, strict=True)


PodTemplate = Annotated[dict[str, Any], AfterValidator(validate_pod_template)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Duration = Annotated[str, Field(pattern=r"^\d+(ms|s|m|h|d)$")]
Labels = dict[str, str]


class Closed(BaseModel):
    """An object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Closed):
    name: Name
    namespace: Name | None = None
    labels: Labels = {}


class HeadGroup(Closed):
    rayStartParams: Labels
    template: PodTemplate


class WorkerGroup(HeadGroup):
    groupName: Name
    replicas: int
    minReplicas: int
    maxReplicas: int


class AuthOptions(Closed):
    mode: Literal["token", "disabled"]


class RayClusterSpec(Closed):
    rayVersion: str
    authOptions: AuthOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class RayCluster(Closed):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJobSpec(Closed):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    backoffLimit: int
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    submitterPodTemplate: PodTemplate
    rayClusterSpec: RayClusterSpec


class RayJob(Closed):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class Selector(Closed):
    matchLabels: Labels


class Endpoint(Closed):
    port: str
    path: str
    interval: Duration
    scrapeTimeout: Duration


class ServiceMonitorSpec(Closed):
    selector: Selector
    endpoints: list[Endpoint]


class ServiceMonitor(Closed):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: ServiceMonitorSpec


class Alert(Closed):
    alert: str
    expr: str
    for_: Duration | None = Field(default=None, alias="for")
    labels: Labels
    annotations: Labels


class AlertGroup(Closed):
    name: str
    rules: list[Alert]


class PrometheusRuleSpec(Closed):
    groups: list[AlertGroup]


class PrometheusRule(Closed):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: PrometheusRuleSpec


CUSTOM_RESOURCES = {model.__name__: model for model in (RayCluster, RayJob, ServiceMonitor, PrometheusRule)}
