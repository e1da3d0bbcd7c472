"""The container images, built and run by buildah on a Debian made by debootstrap: without a registry or an engine."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import colour_models
import httpx2
import numpy as np
import psutil
import pytest
from programs import ROOT, free_port, query

from astrodetect.datasets.simulation import generator

DEBIAN = "trixie"
USER = 10001
INSTALLER = ("/etc/pip.conf", "/etc/ssl/certs")  # how this machine reaches its package index
NEEDED = ("buildah", "debootstrap")
READY_WITHIN_S, STOP_WITHIN_S = 60, 40

if os.name != "posix" or os.geteuid() != 0 or not all(map(shutil.which, NEEDED)):
    pytest.skip(f"builds images: needs root, {' and '.join(NEEDED)}", allow_module_level=True)


class Builder:
    """buildah with a storage of its own."""

    base = "localhost/base"

    def __init__(self, storage: Path, run: Path) -> None:
        self._storage = storage
        self._options = ["--root", str(storage), "--runroot", str(run)]

    def __call__(self, command: str, *arguments: str) -> str:
        """Run buildah; return its stdout."""
        done = subprocess.run(self.words(command, *arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
        return done.stdout.strip()

    def words(self, command: str, *arguments: str) -> list[str]:
        """The words of a command line."""
        return ["buildah", *self._options, command, *arguments]

    def build(self, target: str) -> str:
        """Build an image by the Dockerfile; return its name."""
        volumes = [f"--volume={path}:{path}:ro" for path in INSTALLER if Path(path).exists()]
        argument = f"--build-arg=BASE_IMAGE={self.base}"
        name = f"localhost/astrodetect:{target}"
        options = ["--isolation=chroot", "--format=docker", "--layers=false", argument, f"--target={target}"]
        self("bud", *options, f"--tag={name}", *volumes, str(ROOT))
        size = gigabytes(self("images", "--format={{.Size}}", name))
        assert size == pytest.approx(documented_size(target), rel=0.1)
        return name

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """A container of the image."""
        name = self("from", "--pull-never", image)
        try:
            yield name
        finally:
            self("rm", name)

    def make_base(self, debian: Path) -> None:
        """What python:slim has: Debian, and Python in /usr/local/bin."""
        packages = "--include=python3,python3-venv,ca-certificates"
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", packages, DEBIAN, str(debian)], capture_output=True, check=False
        )
        assert made.returncode == 0, made.stdout[-2000:]
        (debian / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        shutil.rmtree(debian / "var/cache/apt")
        shutil.rmtree(debian / "var/lib/apt/lists")
        name = self("from", "scratch")
        subprocess.run(["tar", "-C", str(debian), "-cf", str(debian.with_suffix(".tar")), "."], check=True)
        self("add", name, str(debian.with_suffix(".tar")), "/")
        self("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", name)
        self("commit", "--rm", name, self.base)
        shutil.rmtree(debian)
        debian.with_suffix(".tar").unlink()

    def remove(self) -> None:
        """Remove every container and image, and what the storage driver mounted."""
        for command in (self.words("rm", "--all"), self.words("rmi", "--all", "--force")):
            subprocess.run(command, capture_output=True, check=False)
        subprocess.run(["umount", str(self._storage / "overlay")], capture_output=True, check=False)


def gigabytes(text: str) -> float:
    """A size as buildah prints it."""
    number, unit = text.split()
    return float(number) * {"MB": 1e-3, "GB": 1.0}[unit]


def documented_size(target: str) -> float:
    """The size of an image in docs/how-to/containers.md."""
    text = (ROOT / "docs" / "how-to" / "containers.md").read_text(encoding="utf-8")
    [size] = re.findall(rf"^\| .*\(target `{target}`\) \|.*\| ([\d.]+ GB) \|$", text, re.MULTILINE)
    return gigabytes(size)


@pytest.fixture(scope="module")
def builder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """A builder with the base image, whose storage is removed at the end."""
    if not request.config.getoption("--full"):
        pytest.skip("builds images for minutes: --full")
    folder = tmp_path_factory.mktemp("buildah")
    builder = Builder(folder / "storage", folder / "run")
    try:
        builder.make_base(folder / "debian")
        yield builder
    finally:
        builder.remove()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The folders of the volumes: data belongs to the user of the image."""
    folders = {name: tmp_path / name for name in ("models", "data", "images", "secrets")}
    for folder in folders.values():
        folder.mkdir()
    for path in (tmp_path, *tmp_path.parents):  # other accounts pass through
        path.chmod(path.stat().st_mode | stat.S_IXOTH)
    os.chown(folders["data"], USER, USER)
    return folders


@pytest.fixture
def open_socket(postgres_folder: Path, database_url: str) -> Iterator[str]:
    """The URL of a database, whose server's socket the user of the image reaches meanwhile."""
    mode = postgres_folder.stat().st_mode
    postgres_folder.chmod(0o711)
    yield database_url
    postgres_folder.chmod(mode)


def volumes(*mounts: tuple[Path, str]) -> list[str]:
    return [f"--volume={source}:{target}" for source, target in mounts]


def program(process: "subprocess.Popen[str]", name: str) -> psutil.Process:
    """The program itself among the processes of `buildah run`."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.cmdline()[1:2] == [f"/opt/astrodetect/bin/{name}"] and "python" in child.cmdline()[0]:
            return child
    raise AssertionError("the program has ended")


def written_outside_of_volumes(builder: Builder, container: str, since: float) -> list[Path]:
    """Files of the container that changed after a time; whatever is mounted while it runs is not among them."""
    top = Path(builder("mount", container))
    files = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
    changed = [path.relative_to(top) for path in files if path.lstat().st_mtime > since]
    return [path for path in changed if path.parts[0] not in {"tmp", "run", "etc"}]  # buildah's own are in etc and run


def config(builder: Builder, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(builder("inspect", "--type=image", image))["Docker"]["config"]
    return found


def wait_until_ready(url: str, process: "subprocess.Popen[str]") -> httpx2.Response:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return httpx2.get(url).raise_for_status()
        except httpx2.HTTPError:
            time.sleep(0.2)
    process.kill()
    raise AssertionError(f"not ready: {process.communicate()[0]}")


def test_serving_image_answers_as_an_ordinary_user_and_ends_at_sigterm(
    builder: Builder, folders: dict[str, Path], open_socket: str, postgres_folder: Path
) -> None:
    image = builder.build("serve")
    settings = config(builder, image)
    assert (settings["User"], settings["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert settings["Entrypoint"] == ["astrodetect"]
    assert settings["Labels"]["org.opencontainers.image.title"] == "astrodetect"
    ordinary = np.stack([colour_models.image("nebula", seed) for seed in range(12)])
    colour_models.publish_with_detectors(folders["models"], "resnet50_model", ordinary, ["SB", "E"])
    (folders["secrets"] / "database_url").write_text(open_socket)
    mounts = volumes(
        (folders["models"], "/astrodetect/models:ro"),
        (folders["data"], "/astrodetect/data"),
        (folders["secrets"], "/run/secrets:ro"),
        (postgres_folder, str(postgres_folder)),
    )
    with builder.container(image) as container:
        started, port = time.time(), free_port()
        environment = [f"--env=PORT={port}"]
        run = ["--isolation=chroot", *mounts, *environment, container, "--"]
        bom = json.loads(builder("run", *run, "cat", "/opt/astrodetect/sbom.cdx.json"))
        packages = {component["name"]: component["version"] for component in bom["components"]}
        assert {"astrodetect", "openvino", "fastapi"} <= set(packages)
        assert not {"tensorflow", "keras", "pip"} & set(packages)
        assert f"\nopenvino=={packages['openvino']} " in (ROOT / "requirements.txt").read_text()
        builder("run", *run, "astrodetect", "setup-db")
        command = builder.words("run", *run, *settings["Entrypoint"], *settings["Cmd"])
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            ready = wait_until_ready(f"http://127.0.0.1:{port}/health/ready", process)
            assert ready.json()["logged"] == "committed"
            files = {"file": ("simulated.jpg", (ROOT / "docs" / "simulated.jpg").read_bytes())}
            answer = httpx2.post(f"http://127.0.0.1:{port}/detect", files=files, timeout=60)
            assert answer.status_code == 200, answer.text
            builder("run", *run, *settings["Healthcheck"]["Test"][1:])
            service = program(process, "astrodetect")
            assert service.uids().real == USER
            service.send_signal(signal.SIGTERM)
            assert process.wait(STOP_WITHIN_S) == 0
        assert query(open_socket, "SELECT image_name FROM predictions") == [("simulated.jpg",)]
        assert not written_outside_of_volumes(builder, container, started)


def test_training_image_trains_and_publishes_a_model(builder: Builder, folders: dict[str, Path]) -> None:
    image = builder.build("train")
    os.chown(folders["models"], USER, USER)
    generator.make_sample(folders["images"], 40, 20, seed=0, size=64)
    mounts = volumes(
        (folders["models"], "/astrodetect/models"),
        (folders["data"], "/astrodetect/data"),
        (folders["images"], "/images:ro"),
    )
    train = ["train", "--train", "/images/train", "--test", "/images/test", "--size", "64", "--weights", "packaged"]
    with builder.container(image) as container:
        started = time.time()
        builder("run", "--isolation=chroot", *mounts, container, "--", "astrodetect", *train)
        assert not written_outside_of_volumes(builder, container, started)
    manifest = json.loads((folders["models"] / "resnet50_model.json").read_text())
    assert manifest["classes"] == ["SB", "E"]


def test_cluster_image_scores_with_ray(builder: Builder, folders: dict[str, Path]) -> None:
    image = builder.build("cluster")
    ordinary = np.stack([colour_models.image("nebula", seed) for seed in range(12)])
    colour_models.publish_with_detectors(folders["models"], "resnet50_model", ordinary, ["SB", "E"])
    generator.make_sample(folders["images"], 1, 10, seed=0, size=64)
    mounts = volumes(
        (folders["models"], "/astrodetect/models:ro"),
        (folders["data"], "/astrodetect/data"),
        (folders["images"], "/images:ro"),
    )
    score = ["score", "/images/test", "--output", "/astrodetect/data/scores.csv", "--ray", "local"]
    with builder.container(image) as container:
        run = ["--isolation=chroot", *mounts, container, "--"]
        builder("run", *run, "astrodetect", *score)
        builder("run", *run, "ray", "job", "submit", "--help")
    assert len((folders["data"] / "scores.csv").read_text().splitlines()) == 1 + 20
