"""The model registry: models load once when first used, a limited number at a time, and none is evicted in use."""

import asyncio
import gc
import shutil
import time
import weakref
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest

from astrodetect.anomalies.novelty import Novelty
from astrodetect.errors import ModelError, ModelMissing, ModelUnknown, Overloaded
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.model_store.manifest import read_manifest
from astrodetect.records import Outputs, Pixels
from astrodetect.service import model_registry as models_module
from astrodetect.service import opened_model
from astrodetect.service.model_registry import ModelRegistry, ServedModel
from astrodetect.service.opened_model import OpenedModel
from astrodetect.settings import Settings

DEFAULT = "first"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five models."""
    folder = tmp_path_factory.mktemp("published")
    for name in (DEFAULT, "a", "b", "c", "d"):
        colour_models.publish(folder, name)
    return folder


@pytest.fixture
def models_dir(published: Path, tmp_path: Path) -> Path:
    """A copy of the models, which tests modify."""
    return Path(shutil.copytree(published, tmp_path / "models"))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are loaded, in order."""
    loaded, load = [], load_verified

    def counting_load(folder: Path, name: str, precision: Any) -> Any:
        loaded.append(name)
        return load(folder, name, precision)

    monkeypatch.setattr(opened_model, "load_verified", counting_load)
    return loaded


def process(engine: Engine, _novelty: Novelty | None, batch: list[Pixels]) -> list[Outputs]:
    return [engine.run(pixels[np.newaxis]) for pixels in batch]


@asynccontextmanager
async def open_registry(
    models_dir: Path, max_models: int = 2, opening: Future[OpenedModel] | None = None
) -> AsyncIterator[ModelRegistry]:
    models = ModelRegistry(
        models_dir, DEFAULT, "auto", threads=1, max_models=max_models, score=process, record=list, opening=opening
    )
    try:
        yield models
    finally:
        await models.close()


async def use(models: ModelRegistry, name: str | None = None) -> ServedModel:
    """Runs the model once."""
    async with models.use(name) as serving:
        output = await serving.batcher.submit(colour_models.image("ocean"))
        assert output.probabilities.shape == (1, 3)
        return serving


async def wait_for_version(models: ModelRegistry, name: str | None, version: str) -> None:
    async with asyncio.timeout(20):
        while (await use(models, name)).manifest.version != version:
            await asyncio.sleep(0.02)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_concurrent_requests_load_a_model_once_and_one_may_be_cancelled(models_dir: Path, loads: list[str]) -> None:
    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            tasks = [asyncio.create_task(use(models, "a")) for _ in range(20)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            results = await asyncio.gather(*tasks[1:])
            assert len(set(map(id, results))) == 1
            assert loads == ["a"]

    run(scenario())


def start_opening(models_dir: Path) -> Future[OpenedModel]:
    return opened_model.start_opening(Settings(models_dir=models_dir, model=DEFAULT, threads=1))


def test_the_model_that_the_start_opened_is_not_opened_again(models_dir: Path, loads: list[str]) -> None:
    async def scenario() -> None:
        opening = start_opening(models_dir)
        async with open_registry(models_dir, opening=opening) as models:
            assert (await use(models)).engine is opening.result().engine
            await use(models, "a")
        assert loads == [DEFAULT, "a"]

    run(scenario())


def test_what_is_published_or_damaged_while_the_start_opens_the_model_is_noticed(models_dir: Path) -> None:
    async def scenario() -> None:
        opening = start_opening(models_dir)
        old = opening.result().engine.manifest.version
        colour_models.publish(models_dir, DEFAULT, scale=0.04)
        async with open_registry(models_dir, opening=opening) as models:
            assert (await use(models)).manifest.version != old
        (models_dir / f"{DEFAULT}.xml").write_bytes(b"<net/>")
        async with open_registry(models_dir, opening=start_opening(models_dir)) as models:
            with pytest.raises(ModelError, match="does not match"):
                await models.check()

    run(scenario())


def test_the_least_recently_used_model_is_evicted_but_never_the_default_one(models_dir: Path, loads: list[str]) -> None:
    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            for name in (None, "a", "b", "a", "c", "a", None, "b"):
                await use(models, name)
        assert loads == [DEFAULT, "a", "b", "c", "b"]

    run(scenario())


def test_an_evicted_model_leaves_the_memory(models_dir: Path) -> None:
    async def scenario() -> None:
        async with open_registry(models_dir, max_models=1) as models:
            evicted = weakref.ref((await use(models, "a")).engine)
            await use(models, "b")
            async with asyncio.timeout(10):
                while evicted() is not None:
                    await asyncio.sleep(0.01)
                    gc.collect()

    run(scenario())


def test_a_model_in_use_is_not_evicted(models_dir: Path) -> None:
    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            async with models.use("a") as a, models.use("b"):
                with pytest.raises(Overloaded, match="2 other models are in use"):
                    await use(models, "c")
                await use(models)  # the default model is not counted
                output = await a.batcher.submit(colour_models.image("lawn"))
                assert output.probabilities.argmax() == colour_models.CLASSES.index("lawn")
            await use(models, "c")

    run(scenario())


def test_requests_for_many_models_are_served_or_refused(models_dir: Path) -> None:
    async def scenario() -> None:
        async with open_registry(models_dir, max_models=2) as models:
            names = [name for _ in range(25) for name in "abcd"]
            results = await asyncio.gather(*(use(models, name) for name in names), return_exceptions=True)
            for name, result in zip(names, results, strict=True):
                assert isinstance(result, Overloaded) or (
                    isinstance(result, ServedModel) and result.manifest.name == name
                )
            for name in "abcd":
                await use(models, name)

    run(scenario())


def test_unknown_and_broken_models_are_refused_and_evict_none(models_dir: Path, loads: list[str]) -> None:
    weights = models_dir / "c.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (models_dir / "d.json").write_text("{}")

    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            before = [await use(models, name) for name in (None, "a", "b")]
            for number in range(20):
                with pytest.raises(ModelUnknown, match=f"^no model nothing{number} here"):
                    await use(models, f"nothing{number}")
            with pytest.raises(ModelError, match=r"c\.bin does not match the SHA-256 in its manifest"):
                await use(models, "c")
            with pytest.raises(ModelError, match="is not a manifest"):
                await use(models, "d")
            loads.clear()
            assert [await use(models, name) for name in (None, "a", "b")] == before
            assert loads == []
            assert not models._loading

    run(scenario())


def test_without_the_default_model_the_others_serve(models_dir: Path) -> None:
    (models_dir / f"{DEFAULT}.json").unlink()

    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            with pytest.raises(ModelMissing, match=r"python train_model\.py"):
                await models.check()
            assert models.default is None
            await use(models, "a")

    run(scenario())


@pytest.mark.parametrize("name", [None, "a"])
def test_a_new_version_takes_over_and_requests_in_progress_finish_on_the_old_one(
    models_dir: Path, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "CHECK_S", 0.0)

    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            async with models.use(name) as old:
                new = colour_models.publish(models_dir, name or DEFAULT, scale=0.05)
                await wait_for_version(models, name, new.version)
                output = await old.batcher.submit(colour_models.image("ocean"))
                assert old.manifest.version != new.version
                assert output.probabilities.max() < 0.9
            new_model = await use(models, name)
            assert (await new_model.batcher.submit(colour_models.image("ocean"))).probabilities.max() > 0.9
            assert models.default is None or models.default.version in {old.manifest.version, new.version}

    run(scenario())


def test_a_broken_new_version_is_not_loaded_until_it_is_complete(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models_module, "CHECK_S", 0.0)
    monkeypatch.setattr(models_module, "RETRY_S", 0.05)

    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            before = await use(models)
            new = colour_models.publish(models_dir, DEFAULT, scale=0.05)
            whole = (models_dir / f"{DEFAULT}.bin").read_bytes()
            (models_dir / f"{DEFAULT}.bin").write_bytes(b"torn")
            async with asyncio.timeout(20):
                while "the model loaded before stays in use" not in caplog.text:
                    assert await use(models) is before
                    await asyncio.sleep(0.01)
            (models_dir / f"{DEFAULT}.bin").write_bytes(whole)
            await wait_for_version(models, None, new.version)

    run(scenario())


def test_a_rollback_and_other_loads_do_not_run_at_the_same_time(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, running, max_running = Engine._check, 0, 0

    def slow(engine: Engine) -> None:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        time.sleep(0.1)
        check(engine)
        running -= 1

    old = read_manifest(models_dir / "a.json").version
    colour_models.publish(models_dir, "a", scale=0.05)
    monkeypatch.setattr(Engine, "_check", slow)

    async def scenario() -> None:
        async with open_registry(models_dir) as models:
            manifest, _ = await asyncio.gather(models.rollback("a"), use(models, "b"))
            assert manifest.version == (await use(models, "a")).manifest.version == old

    run(scenario())
    assert max_running == 1
