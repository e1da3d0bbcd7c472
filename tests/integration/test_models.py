"""Models by name: loaded once when they are asked for, so many at a time, and none let go while it is in use."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import colour_models
import pytest

from astrodetect.errors import ModelError, ModelMissing, ModelUnknown, Overloaded
from astrodetect.inference.engine import Engine, load_model
from astrodetect.model_store.manifest import read_manifest
from astrodetect.service import model_registry as models_module
from astrodetect.service.model_registry import ModelRegistry, ServedModel

DEFAULT = "first"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five models."""
    for name in (DEFAULT, "a", "b", "c", "d"):
        colour_models.publish(tmp_path, name)
    return tmp_path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are loaded, as it happens."""
    loaded, load = [], load_model

    def noted(folder: Path, name: str, precision: Any) -> Any:
        loaded.append(name)
        return load(folder, name, precision)

    monkeypatch.setattr(models_module, "load_model", noted)
    return loaded


@asynccontextmanager
async def opened(folder: Path, most: int = 2) -> AsyncIterator[ModelRegistry]:
    models = ModelRegistry(folder, DEFAULT, "auto", max_models=most, observe_batch=lambda _: None)
    try:
        yield models
    finally:
        await models.close()


async def used(models: ModelRegistry, name: str | None = None) -> ServedModel:
    """It answers; what it was is for identity alone."""
    async with models.use(name) as serving:
        done = await serving.batcher.submit(colour_models.image("ocean"))
        assert done.result.probabilities.shape == (1, 3)
        return serving


async def until_new(models: ModelRegistry, name: str | None, version: str) -> None:
    async with asyncio.timeout(20):
        while (await used(models, name)).manifest.version != version:
            await asyncio.sleep(0.02)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def test_many_callers_at_once_load_a_model_once_and_a_caller_who_gives_up_harms_none(
    folder: Path, loads: list[str]
) -> None:
    async def scene() -> None:
        async with opened(folder) as models:
            callers = [asyncio.create_task(used(models, "a")) for _ in range(20)]
            await asyncio.sleep(0)
            callers[0].cancel()
            found = await asyncio.gather(*callers[1:])
            assert len(set(map(id, found))) == 1
            assert loads == ["a"]

    run(scene())


def test_the_one_not_asked_for_the_longest_is_let_go_and_the_default_one_never(folder: Path, loads: list[str]) -> None:
    async def scene() -> None:
        async with opened(folder) as models:
            for name in (None, "a", "b", "a", "c", "a", None, "b"):
                await used(models, name)
        assert loads == [DEFAULT, "a", "b", "c", "b"]

    run(scene())


def test_what_was_let_go_leaves_the_memory(folder: Path) -> None:
    async def scene() -> None:
        async with opened(folder, most=1) as models:
            gone = weakref.ref((await used(models, "a")).engine)
            await used(models, "b")
            async with asyncio.timeout(10):
                while gone() is not None:
                    await asyncio.sleep(0.01)
                    gc.collect()

    run(scene())


def test_a_model_in_use_is_not_let_go(folder: Path) -> None:
    async def scene() -> None:
        async with opened(folder) as models:
            async with models.use("a") as a, models.use("b"):
                with pytest.raises(Overloaded, match="2 other models are in use"):
                    await used(models, "c")
                await used(models)  # the default one has a place of its own
                done = await a.batcher.submit(colour_models.image("lawn"))
                assert done.result.probabilities.argmax() == colour_models.CLASSES.index("lawn")
            await used(models, "c")

    run(scene())


def test_many_models_at_once_are_each_answered_or_refused(folder: Path) -> None:
    async def scene() -> None:
        async with opened(folder, most=2) as models:
            names = [name for _ in range(25) for name in "abcd"]
            found = await asyncio.gather(*(used(models, name) for name in names), return_exceptions=True)
            for name, one in zip(names, found, strict=True):
                assert isinstance(one, Overloaded) or (isinstance(one, ServedModel) and one.manifest.name == name)
            for name in "abcd":
                await used(models, name)

    run(scene())


def test_unknown_and_broken_models_are_refused_in_a_line_and_displace_none(folder: Path, loads: list[str]) -> None:
    weights = folder / "c.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (folder / "d.json").write_text("{}")

    async def scene() -> None:
        async with opened(folder) as models:
            before = [await used(models, name) for name in (None, "a", "b")]
            for number in range(20):
                with pytest.raises(ModelUnknown, match=f"^no model nothing{number} here"):
                    await used(models, f"nothing{number}")
            with pytest.raises(ModelError, match=r"c\.bin does not match the SHA-256 in its manifest"):
                await used(models, "c")
            with pytest.raises(ModelError, match="is not a manifest"):
                await used(models, "d")
            loads.clear()
            assert [await used(models, name) for name in (None, "a", "b")] == before
            assert loads == []
            assert not models._loading

    run(scene())


def test_without_the_default_model_the_others_answer(folder: Path) -> None:
    (folder / f"{DEFAULT}.json").unlink()

    async def scene() -> None:
        async with opened(folder) as models:
            with pytest.raises(ModelMissing, match=r"python train_model\.py"):
                await models.check()
            assert models.default is None
            await used(models, "a")

    run(scene())


@pytest.mark.parametrize("name", [None, "a"])
def test_a_model_published_anew_takes_over_and_who_began_with_the_old_one_ends_with_it(
    folder: Path, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "CHECK_S", 0.0)

    async def scene() -> None:
        async with opened(folder) as models:
            async with models.use(name) as old:
                new = colour_models.publish(folder, name or DEFAULT, scale=0.05)
                await until_new(models, name, new.version)
                done = await old.batcher.submit(colour_models.image("ocean"))
                assert old.manifest.version != new.version
                assert done.result.probabilities.max() < 0.9
            surer = await used(models, name)
            assert (await surer.batcher.submit(colour_models.image("ocean"))).result.probabilities.max() > 0.9
            assert models.default is None or models.default.version in {old.manifest.version, new.version}

    run(scene())


def test_a_model_published_broken_changes_nothing_until_it_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models_module, "CHECK_S", 0.0)
    monkeypatch.setattr(models_module, "RETRY_S", 0.05)

    async def scene() -> None:
        async with opened(folder) as models:
            before = await used(models)
            new = colour_models.publish(folder, DEFAULT, scale=0.05)
            whole = (folder / f"{DEFAULT}.bin").read_bytes()
            (folder / f"{DEFAULT}.bin").write_bytes(b"torn")
            async with asyncio.timeout(20):
                while "the model loaded before stays in use" not in caplog.text:
                    assert await used(models) is before
                    await asyncio.sleep(0.01)
            (folder / f"{DEFAULT}.bin").write_bytes(whole)
            await until_new(models, None, new.version)

    run(scene())


def test_the_trial_of_an_earlier_version_and_the_loads_of_others_take_turns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, at_once, most = Engine._check, 0, 0

    def slow(engine: Engine) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.1)
        check(engine)
        at_once -= 1

    old = read_manifest(folder / "a.json").version
    colour_models.publish(folder, "a", scale=0.05)
    monkeypatch.setattr(Engine, "_check", slow)

    async def scene() -> None:
        async with opened(folder) as models:
            manifest, _ = await asyncio.gather(models.rollback("a"), used(models, "b"))
            assert manifest.version == (await used(models, "a")).manifest.version == old

    run(scene())
    assert most == 1
