"""The training view in a browser: it follows a training, keeps the focus, and turns into the working page."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import colour_models
import pytest
from playwright.sync_api import expect
from programs import Service

from astrodetect.model_store.training_progress import TrainingProgress, write_progress
from browser.demo_service import BINARY_MODEL
from browser.page_checks import accessibility_violations, horizontal_overflow_px
from browser.tabs import LAPTOP, PHONE, Tabs

EPOCH = {"train_loss": 0.7, "watched_loss": 0.6, "accuracy": 0.8, "auc": 0.9}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """Empty at first."""
    return tmp_path / "models"


@pytest.fixture
def empty_service(new_database: Callable[[], str], models_dir: Path, tmp_path: Path) -> Iterator[Service]:
    """A service without a model; tests name it before `tabs`, which close first."""
    models_dir.mkdir()
    environment = {
        "DATABASE_URL": new_database(),
        "ASTRODETECT_DATA_DIR": str(tmp_path / "data"),
        "ASTRODETECT_MODELS_DIR": str(models_dir),
    }
    with Service(log=tmp_path / "log", environment=environment) as service:
        service.wait_until(lambda: "startup complete" in service.output)
        yield service


def train(models_dir: Path, epoch: int, *, error: str = "") -> None:
    """What a training process writes in this epoch; 0 while it simulates."""
    progress = TrainingProgress(
        BINARY_MODEL,
        started=1000.0,
        state="failed" if error else "running",
        recipe="resnet50" if epoch else "",
        title=f"epoch {epoch}/4" if epoch else "simulating images",
        done=9,
        total=45,
        left_s=40.0,
        epochs=(EPOCH,) * max(0, epoch - 1),
        command=("--epochs", "4"),
        error=error,
    )
    write_progress(models_dir, progress)


def test_the_start_page_follows_the_training_and_turns_into_the_upload_form(
    empty_service: Service, tabs: Tabs, models_dir: Path
) -> None:
    page = tabs.open(empty_service.url)
    expect(page.get_by_role("heading", name="No model is trained yet")).to_be_visible()
    train(models_dir, 0)
    expect(page.get_by_role("heading", name=f"Simulating images for {BINARY_MODEL}")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    train(models_dir, 1)
    cancel = page.get_by_role("button", name="Cancel")
    expect(page.get_by_text("about 40 s left")).to_be_visible()
    cancel.focus()
    train(models_dir, 3)
    expect(page.locator("svg.chart")).to_have_count(2)
    expect(page.get_by_text("Epoch 3/4")).to_be_visible()
    expect(cancel).to_be_focused()  # the figures alone are exchanged
    for width in (LAPTOP, PHONE):
        page.set_viewport_size({"width": width, "height": 900})
        assert horizontal_overflow_px(page) == 0
        assert accessibility_violations(page) == []
    train(models_dir, 4, error="the training diverged")
    expect(page.get_by_text("the training diverged")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    colour_models.publish(models_dir, BINARY_MODEL, colour_models.TWO_CLASSES)
    expect(page.locator("#file")).to_be_visible()
    expect(page.locator("#trainings")).to_have_count(0)


def test_the_form_tells_what_is_wrong_and_a_cancelled_training_is_asked_to_stop(
    empty_service: Service, tabs: Tabs, models_dir: Path
) -> None:
    page = tabs.open(f"{empty_service.url}/models-page", ignore="status of 422")
    page.get_by_role("link", name="Train a model").click()
    page.get_by_label("Folder of the images").fill("/nowhere/at/all")
    page.get_by_role("button", name="Start the training").click()
    expect(page.get_by_role("alert")).to_contain_text("No folder /nowhere/at/all")
    expect(page.get_by_label("Folder of the images")).to_have_value("/nowhere/at/all")
    train(models_dir, 2)
    page.get_by_role("link", name="Models", exact=True).first.click()
    page.get_by_role("button", name="Cancel").click()
    give_up = time.monotonic() + 10
    while not (models_dir / f".{BINARY_MODEL}.stop").exists():
        assert time.monotonic() < give_up
        time.sleep(0.05)
