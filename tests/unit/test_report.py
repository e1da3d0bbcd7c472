"""The evaluation report and the JSON summary beside it."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_inputs import make_evaluation_inputs
from PIL import Image

from astrodetect.errors import DataError
from astrodetect.evaluation import notable_images
from astrodetect.evaluation.curves import training_history
from astrodetect.evaluation.notable_images import NotableImage
from astrodetect.evaluation.summary import (
    EvaluationInputs,
    classification_report,
    summarise_evaluation,
    summary_lines,
)
from astrodetect.inference.heat_maps import to_intensity
from astrodetect.records import Floats, Outputs, Pixels
from astrodetect.reports import evaluation_report, html

LARGEST_PAGE = 4_000_000


def write_report(inputs: EvaluationInputs, page: Path) -> str:
    assert evaluation_report.write_evaluation_report(inputs, summarise_evaluation(inputs), page) == page
    return page.read_text(encoding="utf-8")


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}">')[1].split("</section>", maxsplit=1)[0]


def test_json_summary_and_page_have_the_same_metrics(tmp_path: Path) -> None:
    text = write_report(make_evaluation_inputs(tmp_path), tmp_path / "galaxies.html")
    found = json.loads((tmp_path / "galaxies.metrics.json").read_text())
    accuracy = found["parts"]["test"]["figures"]["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert f"{100 * accuracy['value']:.1f} %" in text.split('class="hero"')[1].split("</dl>")[0]
    [[tn, fp], [fn, tp]] = found["parts"]["test"]["confusion"]
    for name, count in (
        ("true-negatives", tn),
        ("false-positives", fp),
        ("false-negatives", fn),
        ("true-positives", tp),
    ):
        assert f'id="{name}">{count}<' in text
    assert tn + tp == round(40 * accuracy["value"])


def test_report_shows_remarks_provenance_data_and_training_history(tmp_path: Path) -> None:
    text = write_report(
        make_evaluation_inputs(tmp_path, remarks=["3 images are in train & test"]), tmp_path / "galaxies.html"
    )
    assert "3 images are in train &amp; test" in text
    assert "abc1234" in section(text, "origin")
    assert re.search(r"<dt>seed</dt><dd>7</dd>", section(text, "origin"))
    assert re.search(r"train, at training.*100.*100.*200.*>1<", section(text, "data"))
    assert "epoch 2 was chosen" in section(text, "curves")


def test_report_warns_if_the_model_was_trained_on_the_evaluated_images(tmp_path: Path) -> None:
    found = make_evaluation_inputs(tmp_path)
    warning = "trained on these very images"
    assert warning not in write_report(found, tmp_path / "a.html")
    same = replace(found, parts=[replace(found.detailed, fingerprint="learnt")])
    assert warning in write_report(same, tmp_path / "b.html")


def test_report_compares_with_the_previous_run(tmp_path: Path) -> None:
    page, found = tmp_path / "galaxies.html", make_evaluation_inputs(tmp_path)
    assert "There is no earlier run" in write_report(found, page)
    outputs, truth = found.detailed.outputs, found.detailed.truth
    better = np.eye(2, dtype=np.float32)[truth] * 0.8 + 0.1
    improved = replace(found, parts=[replace(found.detailed, outputs=replace(outputs, probabilities=better))])
    text = write_report(improved, page)
    assert "on the same images" in text
    assert re.search(r"\+\d+\.\d points, better", text)
    assert re.search(r"−0\.\d{3}, better", text)  # log loss: less is better
    (tmp_path / "galaxies.metrics.json").write_text("[]")
    assert "There is no earlier run" in write_report(found, page)


def test_report_and_summary_show_the_effect_of_averaging_views(tmp_path: Path) -> None:
    found = make_evaluation_inputs(tmp_path)
    worse = np.full_like(found.detailed.outputs.probabilities, 0.5)
    several = replace(found, views=8, one_view=worse)
    text = write_report(several, tmp_path / "galaxies.html")
    assert "Effect of averaging 8 views" in text
    lines = summary_lines(summarise_evaluation(several))
    assert any(re.match(r"8 views: Log loss 0\.693 → 0\.\d{3} \(−0\.\d{3}, better\)", line) for line in lines)
    assert not any("views" in line for line in summary_lines(summarise_evaluation(found)))


def test_report_size_is_bounded_for_many_classes_and_large_noisy_images(tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(20))
    text = write_report(make_evaluation_inputs(tmp_path, classes, 600, side=227), tmp_path / "galaxies.html")
    assert len(text) < LARGEST_PAGE
    assert text.count('class="cell"') > 20
    assert 'id="threshold"' not in text  # several classes have none


def test_report_of_a_part_without_images_of_one_class(tmp_path: Path) -> None:
    found = make_evaluation_inputs(tmp_path, ("a", "b", "c"), 30)
    some = np.flatnonzero(found.detailed.truth != 2)
    whole = found.detailed.outputs
    outputs = Outputs(whole.probabilities[some], whole.features[some], whole.maps[some])
    part = replace(
        found.detailed,
        truth=found.detailed.truth[some],
        paths=[found.detailed.paths[i] for i in some.tolist()],
        outputs=outputs,
    )
    write_report(replace(found, parts=[part]), tmp_path / "galaxies.html")
    figures = json.loads((tmp_path / "galaxies.metrics.json").read_text())["parts"]["test"]["figures"]
    assert figures["auc"]["value"] is None
    assert figures["accuracy"]["value"] > 0.3


def test_report_of_two_images_and_of_one(tmp_path: Path) -> None:
    write_report(make_evaluation_inputs(tmp_path, count=2), tmp_path / "galaxies.html")
    write_report(replace(make_evaluation_inputs(tmp_path, count=1), training=None), tmp_path / "galaxies.html")


def test_class_names_are_escaped_in_the_report(tmp_path: Path) -> None:
    classes = ("<b>x", 'y"&')
    text = write_report(make_evaluation_inputs(tmp_path, classes), tmp_path / "galaxies.html")
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text


def test_report_has_a_placeholder_for_a_deleted_image(tmp_path: Path) -> None:
    found = make_evaluation_inputs(tmp_path, count=6)
    Path(found.detailed.paths[0]).unlink()
    assert "file missing" in write_report(found, tmp_path / "galaxies.html")


def test_report_shows_no_folders_above_the_class_folder(tmp_path: Path) -> None:
    assert str(tmp_path) not in write_report(make_evaluation_inputs(tmp_path), tmp_path / "galaxies.html")


def test_unwritable_report_path_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = make_evaluation_inputs(tmp_path)
    with pytest.raises(DataError, match="cannot write the report to"):
        evaluation_report.write_evaluation_report(
            found, summarise_evaluation(found), tmp_path / "file" / "galaxies.html"
        )


def test_notable_images_sort_errors_by_confidence_and_need_agreeing_neighbours_for_label_errors(tmp_path: Path) -> None:
    found = make_evaluation_inputs(tmp_path, count=40)
    truth = found.detailed.truth.copy()
    probabilities = np.where(np.eye(2, dtype=np.float32)[truth] > 0, np.float32(0.9), np.float32(0.1))
    features = np.eye(2, dtype=np.float32)[truth] + 0.01 * np.random.default_rng(0).random((40, 2), dtype=np.float32)
    features[6] = [-1, -1]
    truth[4] = 1  # mislabelled: among images of class 0, and the model says so
    probabilities[7] = [0.95, 0.05]  # wrong, but among its own
    outputs = Outputs(probabilities, features, found.detailed.outputs.maps)
    inputs = replace(found, parts=[replace(found.detailed, truth=truth, outputs=outputs)], training=None)
    notable = notable_images.find_notable_images(inputs, 5)
    assert [finding.image for finding in notable.errors] == [7, 4]
    assert [finding.image for finding in notable.mislabelled] == [4]
    assert "5 of the 5" in notable.mislabelled[0].remark
    assert notable.unusual[0].image == 6


def test_unusual_images_that_tie_are_larger_than_none_of_each_other(tmp_path: Path) -> None:
    inputs = make_evaluation_inputs(tmp_path, count=10)
    outputs = replace(inputs.detailed.outputs, features=np.ones((10, 4), np.float32))
    inputs = replace(inputs, parts=[replace(inputs.detailed, outputs=outputs)], training=None)
    notable = notable_images.find_notable_images(inputs, 10)
    assert all("larger than that of 0.0% of the images" in finding.remark for finding in notable.unusual)


def test_nearest_by_cosine_does_not_depend_on_the_block_size() -> None:
    features = np.random.default_rng(0).normal(size=(notable_images.BLOCK + 100, 8)).astype(np.float32)
    distances, neighbours = notable_images.nearest_by_cosine(features, None)
    own = features / np.linalg.norm(features, axis=1, keepdims=True)
    apart = np.linalg.norm(own[:, np.newaxis] - own, axis=2)
    np.fill_diagonal(apart, np.inf)
    expected = np.sort(apart, axis=1)[:, : notable_images.NEIGHBOURS]
    assert np.allclose(np.sort(distances, axis=1), expected, atol=1e-3)
    assert (neighbours != np.arange(len(features))[:, np.newaxis]).all()


def test_heat_map_is_transparent_without_evidence() -> None:
    places = np.zeros((8, 8), np.float32)
    places[6, 1] = 1
    uri = html.heat_map_overlay(places)
    overlay = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    opacity = np.asarray(overlay.convert("RGBA"))[..., 3]
    assert np.unravel_index(opacity.argmax(), opacity.shape)[0] // 8 == 6
    assert opacity[:32].max() == opacity[:, 32:].max() == 0
    assert len(uri) < 4000


def test_heat_map_colours_grow_evenly_in_lightness_and_opacity_and_have_a_legend() -> None:
    palette = html.heat_palette().astype(float)
    lightness = np.cbrt((palette[:, :3] / 255) ** 2.2 @ [0.2126, 0.7152, 0.0722])
    steps = np.diff(lightness)
    assert steps.min() > 0
    assert steps.max() < 3 * steps.mean()
    assert palette[0, 3] == 0
    assert (np.diff(palette[:, 3]) > 0).all()
    for kind, texts in html.HEAT_LEGENDS.items():
        assert all(text in html.heat_legend(kind) for text in texts)


def test_card_heat_map_shows_evidence_for_the_predicted_class_of_two_or_more(tmp_path: Path) -> None:
    for classes in (("SB", "E"), ("SB", "E", "S")):
        found = make_evaluation_inputs(tmp_path / str(len(classes)), classes, count=12)
        outputs = found.detailed.outputs
        predicted = found.model.predict(outputs.probabilities)
        assert {0, 1} <= {*predicted.tolist()}
        for number, class_ in enumerate(predicted):
            [card] = evaluation_report.gallery_cards(found, [NotableImage(number, "")])
            sign = -1 if (len(classes), class_) == (2, 0) else 1
            intensity = to_intensity(sign * outputs.maps[number]) / 255
            assert card.heat == html.heat_map_overlay(np.asarray(intensity, np.float32))


def test_a_report_has_computed_maps_for_the_first_images_of_its_galleries_where_the_networks_own_are_coarse(
    tmp_path: Path,
) -> None:
    found = make_evaluation_inputs(tmp_path, count=30)
    part, explained = found.detailed, []

    def explain(pixels: Pixels, predicted: int) -> Floats:
        explained.append((pixels.shape, predicted))
        return np.full((12, 12), 0.5, np.float32)

    coarse = replace(part, outputs=replace(part.outputs, maps=part.outputs.maps[:, :2, :2]))
    found = replace(found, parts=[*found.parts[:-1], coarse], explain=explain)
    notable = [NotableImage(number, "") for number in range(20)]
    size = found.model.image.size
    count = evaluation_report.MAX_EXPLAINED_PIXELS // size**2
    cards = evaluation_report.gallery_cards(found, notable, "errors")
    assert [bool(card.heat) for card in cards] == [number < count for number in range(20)]
    predicted = found.model.predict(part.outputs.probabilities)[:count].tolist()
    assert explained == [((size, size, 3), each) for each in predicted[:20]]
    assert not any(card.heat for card in evaluation_report.gallery_cards(found, notable))


def test_report_shows_only_the_last_component_of_posix_and_windows_paths(tmp_path: Path) -> None:
    found = make_evaluation_inputs(tmp_path)
    settings = {
        "train": "/home/ada/night-7",
        "weights": "C:\\Users\\ada\\galaxies.h5",
        "data": ["/home/ada/sky-1", "\\\\server\\ada\\sky-2"],
        "nested": {"adopted_weights": "/home/ada/zoo.h5"},
        "recipe": "a/b",
    }
    text = write_report(replace(found, model=replace(found.model, settings=settings)), tmp_path / "galaxies.html")
    for name in ("night-7", "galaxies.h5", "sky-1", "sky-2", "zoo.h5", "a/b"):
        assert name in section(text, "origin")
    assert "ada" not in section(text, "origin")
    assert str(tmp_path) not in text


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 30])
def test_epoch_axes_have_whole_numbers(count: int) -> None:
    history = [{"train_loss": 1 / (1 + i), "log_loss": 1 / (1 + i), "accuracy": 0.5, "auc": 0.6} for i in range(count)]
    losses, _ = evaluation_report.training_charts(training_history(history))
    x_ticks = re.findall(r'<text class="tick" x="[\d.]+" y="[\d.]+" text-anchor="middle">([^<]+)<', losses.figure)
    assert len(x_ticks) >= 2
    assert all(tick.isdigit() for tick in x_ticks)


def test_the_classification_report_has_each_class_its_support_and_the_averages(tmp_path: Path) -> None:
    inputs = make_evaluation_inputs(tmp_path, ("SB", "barred spiral", "E"), count=45)
    summary = summarise_evaluation(inputs)
    part = summary.parts["test"]
    header, *rows = classification_report(part)
    assert header.split() == ["class", "precision", "recall", "F1", "support"]
    assert {len(row) for row in rows} == {len(header)}
    assert [row[:16].strip() for row in rows] == [
        *("SB", "barred spiral", "E"),
        *("accuracy", "macro average", "weighted average"),
    ]
    first = part.classes[0]
    assert rows[0].split()[1:] == [f"{metric.value:.3f}" for metric in (first.precision, first.recall, first.f1)] + [
        "15"
    ]
    assert rows[3].split() == ["accuracy", f"{part.figures['accuracy'].value:.3f}", "45"]
    assert rows[5].split()[2:] == [*(f"{value:.3f}" for value in part.averages["weighted"].values()), "45"]
    assert all(row in "\n".join(summary_lines(summary)) for row in rows)
    stored = json.loads(summary.as_json())["parts"]["test"]
    assert stored["averages"] == part.averages
    assert "weighted average" in write_report(inputs, tmp_path / "galaxies.html")
