"""What deploy/ and compose.yaml promise: valid for their programs, consistent with the service, no secrets."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import promql_parser
import pytest
import yaml
from custom_resources import CUSTOM_RESOURCES, validate_core
from faults.haproxy import HAProxy
from programs import ROOT, free_port
from starlette.testclient import TestClient

from astrodetect.settings import Settings

KUBERNETES = ROOT / "deploy" / "kubernetes"
MONITORING = KUBERNETES / "monitoring"
KUSTOMIZATIONS = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
PATCHES = {"resources.yaml", "replicas.yaml", "no-volume.yaml"}  # of objects, which they do not describe as a whole
MANIFESTS = sorted(p for p in KUBERNETES.rglob("*.yaml") if p.name not in PATCHES | {"kustomization.yaml"})
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = ROOT / "compose.yaml"
NOT_OURS = {"up"}  # what Prometheus adds
WORKLOADS = {"StatefulSet", "Job", "RayCluster", "RayJob"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pods(value: Any) -> list[dict[str, Any]]:
    """Every pod specification anywhere within."""
    if isinstance(value, list):
        return [pod for item in value for pod in pods(item)]
    if not isinstance(value, dict):
        return []
    return [value] if "containers" in value else [pod for item in value.values() for pod in pods(item)]


@pytest.mark.parametrize("path", MANIFESTS, ids=relative)
def test_manifests_are_valid_for_kubernetes_and_the_operators(path: Path) -> None:
    for document in documents(path):
        if model := CUSTOM_RESOURCES.get(document["kind"]):
            model.model_validate(document)
        else:
            validate_core(document)


def test_validation_notices_a_misspelt_field() -> None:
    [statefulset] = documents(KUBERNETES / "base" / "statefulset.yaml")
    statefulset["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(Exception, match="readynessProbe"):
        validate_core(statefulset)
    [job] = documents(KUBERNETES / "ray" / "job.yaml")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["container"] = []
    with pytest.raises(Exception, match="'container' was unexpected"):
        CUSTOM_RESOURCES["RayJob"].model_validate(job)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=relative)
def test_kustomizations_name_files_and_objects_that_exist(folder: Path) -> None:
    objects = {(document["kind"], document["metadata"]["name"]) for path in MANIFESTS for document in documents(path)}
    [kustomization] = documents(folder / "kustomization.yaml")
    named = [*kustomization.get("resources", []), *kustomization.get("components", [])]
    files = [folder / name for name in named]
    assert not [path for path in files if not (path.is_file() or (path / "kustomization.yaml").is_file())]
    files += [folder / patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
    assert set(folder.glob("*.yaml")) - {folder / "kustomization.yaml"} <= set(files)
    for patch in kustomization.get("patches", []):
        [body] = documents(folder / patch["path"]) if "path" in patch else [None]
        target = (
            (body["kind"], body["metadata"]["name"]) if body else (patch["target"]["kind"], patch["target"]["name"])
        )
        assert target in objects
    for generator in kustomization.get("configMapGenerator", []):
        assert not [name for name in generator["files"] if not (folder / name).is_file()]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl, which builds kustomizations, is not installed")
@pytest.mark.parametrize("folder", [path for path in KUSTOMIZATIONS if "components" not in path.parts], ids=relative)
def test_kustomize_builds_valid_objects(folder: Path) -> None:
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for document in yaml.safe_load_all(built.stdout):
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "astrodetect"
        if document["kind"] not in CUSTOM_RESOURCES:
            validate_core(document)


@pytest.mark.parametrize("path", MANIFESTS, ids=relative)
def test_pods_run_without_privileges_on_a_read_only_root(path: Path) -> None:
    for document in documents(path):
        if document["kind"] not in WORKLOADS:
            continue
        for pod in pods(document):
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["securityContext"]["runAsUser"] == 10001
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                security = container["securityContext"]
                assert security["readOnlyRootFilesystem"]
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert security["allowPrivilegeEscalation"] is False
                assert container["resources"]["requests"]
                assert container["resources"]["limits"]["memory"]


def test_secrets_are_named_and_never_written_down() -> None:
    assert "Secret" not in {document["kind"] for path in MANIFESTS for document in documents(path)}
    [compose] = documents(COMPOSE)
    assert {tuple(secret) for secret in compose["secrets"].values()} == {("file",)}
    for name in ("database_url", "astrodetect_api_key"):
        assert name in compose["secrets"]
        assert name.removeprefix("astrodetect_") in Settings.model_fields


def test_grace_periods_are_longer_than_what_the_service_takes_to_end() -> None:
    [statefulset], [compose] = documents(KUBERNETES / "base" / "statefulset.yaml"), documents(COMPOSE)
    [pod] = pods(statefulset)
    environment = {variable["name"]: float(variable["value"]) for variable in pod["containers"][0]["env"]}
    in_kubernetes = environment["ASTRODETECT_DRAIN_S"] + environment["ASTRODETECT_SHUTDOWN_TIMEOUT_S"]
    assert pod["terminationGracePeriodSeconds"] >= in_kubernetes + 10
    app = compose["services"]["app"]
    in_compose = float(app["environment"]["ASTRODETECT_DRAIN_S"]) + Settings.model_fields["shutdown_timeout_s"].default
    assert int(app["stop_grace_period"].removesuffix("s")) >= in_compose + 10
    probe = pod["containers"][0]["readinessProbe"]
    assert environment["ASTRODETECT_DRAIN_S"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_outbox_of_a_pod_survives_the_pod() -> None:
    [statefulset] = documents(KUBERNETES / "base" / "statefulset.yaml")
    [claim] = statefulset["spec"]["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pods(statefulset)[0]["containers"][0]["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/astrodetect/data/outbox"
    size = Settings.model_fields["outbox_max_bytes"].default
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert size < 2**30


def test_compose_file_is_valid_and_starts_in_order() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [compose] = documents(COMPOSE)
    services = compose["services"]
    assert services["app"]["depends_on"]["setup-db"] == {"condition": "service_completed_successfully"}
    assert services["setup-db"]["depends_on"]["database"] == {"condition": "service_healthy"}
    assert services["app"]["deploy"]["replicas"] == 2
    built = {service["build"]["target"] for service in services.values() if "build" in service}
    assert built <= set(re.findall(r"^FROM runtime AS (\w+)$", DOCKERFILE, re.MULTILINE))
    for service in ("app", "setup-db", "train", "proxy"):
        assert services[service]["read_only"]
        assert services[service]["cap_drop"] == ["ALL"]


@pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")
def test_haproxy_accepts_its_configuration() -> None:
    command = ["haproxy", "-c", "-f", str(ROOT / "deploy" / "haproxy" / "haproxy.cfg")]
    done = subprocess.run(
        command, env={**os.environ, "REPLICAS": "app:8000"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")
def test_haproxy_logs_requests_with_their_id(tmp_path: Path) -> None:
    log = tmp_path / "haproxy.log"
    client = httpx2.Client(transport=httpx2.HTTPTransport(retries=5))  # until it has started
    with HAProxy([free_port()], spare=0, log=log) as proxy, client:
        client.get(f"{proxy.url}/models", timeout=30)
        deadline = time.monotonic() + 10
        while not re.search(r' 503 .* "GET /models HTTP/1\.1" [0-9a-f-]{36}$', log.read_text(), re.MULTILINE):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)


def test_image_sends_only_what_it_copies_and_starts_without_a_shell() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    assert sent == copied
    assert not [path for path in copied if not (ROOT / path).exists()]
    for instruction in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", DOCKERFILE, re.MULTILINE):
        assert isinstance(json.loads(instruction), list)
    assert "HEALTHCHECK" in DOCKERFILE
    assert "curl" not in DOCKERFILE
    assert "\nUSER 10001:10001\n" in DOCKERFILE
    assert "\nSTOPSIGNAL SIGTERM\n" in DOCKERFILE


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^[\w.-]+==\S+", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_cluster_image_has_the_pinned_versions_of_the_others() -> None:
    everywhere = {pin.partition("==")[0]: pin for pin in pins(ROOT / "requirements.txt")}
    cluster = pins(ROOT / "deploy" / "requirements-cluster.txt")
    assert not [pin for pin in cluster if everywhere.get(pin.partition("==")[0], pin) != pin]
    [ray] = [pin.partition("==")[2] for pin in cluster if pin.startswith("ray==")]
    for name in ("cluster.yaml", "job.yaml"):
        assert f"rayVersion: {ray}\n" in (KUBERNETES / "ray" / name).read_text(encoding="utf-8")


def expressions() -> list[str]:
    """Every PromQL expression of the alerts and the dashboard, with Grafana's variables filled in."""
    [rules] = documents(MONITORING / "alerts.yaml")
    found = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    found += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [expression.replace("$__rate_interval", "5m").replace("$job", "astrodetect") for expression in found]


def metric_names(expression: Any) -> set[str]:
    """The metrics that a parsed expression reads."""
    if isinstance(expression, promql_parser.VectorSelector):
        return {str(expression.name)}
    children = (getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "vector_selector", "param"))
    nested = [child for child in children if child is not None] + list(getattr(expression, "args", []))
    return {name for child in nested for name in metric_names(child)}


def test_every_metric_of_the_alerts_and_the_dashboard_is_exported(client: TestClient) -> None:
    client.get("/health/live")
    exported = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    exported |= {f"{name}_{part}" for name in exported for part in ("bucket", "sum", "count")}
    read = {name for expression in expressions() for name in metric_names(promql_parser.parse(expression))}
    assert len(read) > 10
    assert not read - exported - NOT_OURS


def test_every_alert_says_what_to_do() -> None:
    [rules] = documents(MONITORING / "alerts.yaml")
    guide = (ROOT / "docs" / "how-to" / "operations.md").read_text(encoding="utf-8")
    alerts = {rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"]}
    assert alerts == set(re.findall(r"^\| `(Astrodetect\w+)` \|", guide, re.MULTILINE))
