"""Networks taught by labels: what they learn from, how rankings are compared, and the command `teach`."""

import json
import re
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from blob_galaxies import BLUE, blob_galaxies, blob_galaxy
from programs import run_here
from sklearn.metrics import average_precision_score, roc_auc_score

from astrodetect import __main__, images
from astrodetect.anomalies import teaching
from astrodetect.anomalies.active_learning import rank_by_labels
from astrodetect.anomalies.teaching import FOLDS, MIN_WANTED, TeachingSet, average_precision, compare_rankings
from astrodetect.errors import DataError
from astrodetect.inference.engine import FEATURES, SCORE
from astrodetect.labels import ARTEFACT, INTERESTING, ORDINARY
from astrodetect.learning import label_network, network
from astrodetect.model_store.manifest import read_manifest
from astrodetect.recipes import NO_NORMALISATION, TEACHING_RECIPE
from astrodetect.records import Floats

IMAGES, WANTED, ORDINARY_IMAGES = 400, 24, 70
LABELS = dict.fromkeys(range(12), INTERESTING) | dict.fromkeys(range(12, WANTED), "merger")
LABELS |= dict.fromkeys(range(WANTED, 40), ORDINARY) | {40: ARTEFACT}


def test_a_teaching_set_has_all_labels_and_the_same_share_of_both_kinds_in_each_fold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teaching, "UNLABELLED", 100)
    drawn = TeachingSet.draw(LABELS, IMAGES, seed=1)
    assert drawn.rows[: len(LABELS)].tolist() == list(LABELS)
    assert len(set(drawn.rows.tolist())) == len(LABELS) + 100
    assert drawn.wanted.tolist() == [True] * WANTED + [False] * (len(drawn.rows) - WANTED)
    for fold in range(FOLDS):
        assert drawn.wanted[drawn.folds == fold].sum() in {WANTED // FOLDS, WANTED // FOLDS + 1}
    for labels, message in (
        (dict.fromkeys(range(MIN_WANTED - 1), "ring"), f"^{MIN_WANTED - 1} images here are labelled interesting"),
        (dict.fromkeys(range(IMAGES), INTERESTING), "^all but 0 images"),
    ):
        with pytest.raises(DataError, match=message):
            TeachingSet.draw(labels, IMAGES, seed=1)


def test_copies_are_in_one_fold_and_those_of_labelled_images_are_not_ordinary_ones() -> None:
    names = [INTERESTING if number < 12 else ORDINARY for number in range(40)]
    labels = {number: names[number // 2] for number in range(80)}  # two copies of each, and a third without a label
    images = np.array([number // 2 for number in range(80)] + list(range(40)) + list(range(40, 100)))
    drawn = TeachingSet.draw(labels, len(images), 0, lambda rows: images[rows])
    assert sorted(images[drawn.rows]) == sorted([*images[:80], *range(40, 100)])
    for image in range(100):
        assert len(set(drawn.folds[images[drawn.rows] == image])) == 1
    assert {drawn.wanted[drawn.folds == fold].sum() for fold in range(FOLDS)} == {4, 6}
    with pytest.raises(DataError, match=r"^all but 1 images"):  # one ordinary image, many times
        TeachingSet.draw(labels, len(images), 0, lambda rows: np.where(images[rows] < 12, images[rows], 12))
    few = dict.fromkeys(range(18), INTERESTING)
    with pytest.raises(DataError, match=r"^9 images here are labelled interesting"):
        TeachingSet.draw(few, len(images), 0, lambda rows: images[rows])


def test_a_network_improves_the_ranking_only_if_it_ranks_images_that_it_has_not_seen() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(0, 1, (IMAGES, 8)).astype(np.float32)
    vectors[:WANTED, 0] += 2
    strength = np.linalg.norm(vectors, axis=1).astype(np.float32)
    drawn = TeachingSet.draw(LABELS, IMAGES, seed=0)

    def comparison(signal: float) -> teaching.TaughtComparison:
        scores = random.normal(signal * drawn.wanted, 1).astype(np.float32)
        return compare_rankings(drawn, vectors, strength, LABELS, scores)

    good, useless = comparison(4.0), comparison(0.0)
    assert good.improves
    assert not useless.improves
    assert good.ranking < good.labels < good.together
    assert (good.ranking, good.labels) == (useless.ranking, useless.labels)
    assert useless.network < 0.3
    assert good.network > 0.8


def test_average_precision_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    wanted, values = random.random(200) < 0.1, random.random(200).astype(np.float32)
    assert average_precision(wanted, values) == pytest.approx(average_precision_score(wanted, values))


def test_the_score_of_a_taught_network_ranks_beside_strength_and_labels() -> None:
    random = np.random.default_rng(0)
    vectors, scores = random.normal(0, 1, (IMAGES, 8)).astype(np.float32), np.zeros(IMAGES, np.float32)
    scores[50] = 1
    strength = np.linalg.norm(vectors, axis=1).astype(np.float32)
    for labels in (dict[int, str](), LABELS):
        without, with_network = (
            rank_by_labels(vectors, strength, labels, network=network).interest for network in (None, scores)
        )
        assert with_network[50] > without[50] + 3
    without, with_network = (
        rank_by_labels(vectors, strength, LABELS, like="merger", network=network).interest for network in (None, scores)
    )
    assert np.array_equal(without, with_network)  # it learnt from all kinds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blobs, of which 24 have a faint blue companion, and their labels."""
    folder, random = tmp_path_factory.mktemp("taught"), np.random.default_rng(7)
    (folder / "images").mkdir()
    pixels: Floats = np.concatenate(
        [blob_galaxies(ORDINARY_IMAGES), np.stack([blob_galaxy(random, BLUE) for _ in range(WANTED)])]
    )
    for number, image in enumerate(pixels):
        images.write_jpeg(folder / "images" / f"{number:03}.jpg", image)
    rows = [
        f"images/{number:03}.jpg,{INTERESTING if number >= ORDINARY_IMAGES else ORDINARY}" for number in range(50, 94)
    ]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows, "elsewhere.jpg,ordinary"]))
    return folder


def run(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    places = {"ASTRODETECT_DATA_DIR": str(folder / "data"), "ASTRODETECT_MODELS_DIR": str(folder / "models")}
    return run_here(__main__.main, *arguments, folder=folder, environment=places)


def test_teach_publishes_a_model_that_ranks_and_reports_how_well(folder: Path) -> None:
    taught = run(folder, "teach", "images", "--labels", "labels.csv", "--name", "mine", "--views", 1)
    assert taught.returncode == 0, taught.stderr
    assert "44 labelled images, 24 of them interesting, and 50 others as ordinary; 1 labels" in taught.stderr
    manifest = read_manifest(folder / "models" / "mine.json")
    assert (manifest.classes, manifest.views) == ([ORDINARY, INTERESTING], 1)
    assert manifest.data["train"]["images"] == {ORDINARY: ORDINARY_IMAGES, INTERESTING: WANTED}
    record = manifest.teaching
    assert record
    assert record["labels"] == {ORDINARY: 20, INTERESTING: WANTED}
    precision = record["average_precision"]
    better = precision["together"] > max(precision["ranking"], precision["labels"])
    assert manifest.ranks == record["improves"] == better
    assert precision["network"] > 0.6  # blue companions
    assert manifest.metrics["held-out folds"]["images"] == ORDINARY_IMAGES + WANTED
    assert re.search(rf"the network alone +{precision['network']:.3f}", taught.stdout)
    assert manifest.space

    data = json.loads((folder / "models" / "mine.json").read_text())
    for improves in (True, False):
        data["data"]["teaching"]["improves"] = improves
        (folder / "models" / "mine.json").write_text(json.dumps(data))
        ranked = run(folder, "anomalies", "images", "--model", "mine", "--top", 1, "--output", f"ranked-{improves}")
        assert ranked.returncode == 0, ranked.stderr
        assert ("ranked by the network mine too" in ranked.stdout) == improves
    few = (folder / "labels.csv").read_text().splitlines()[:30]
    (folder / "few.csv").write_text("\n".join(few))
    (folder / "images" / "bad.jpg").write_bytes(b"bad")
    refused = run(folder, "teach", "images", "--labels", "few.csv")
    assert refused.returncode == 1
    assert "1 files cannot be read; the first, images/bad.jpg: " in refused.stderr
    assert refused.stderr.endswith(f"a network learns from {MIN_WANTED} or more\n")


def test_the_head_does_what_whitening_and_regression_do() -> None:
    random = np.random.default_rng(0)
    wanted = np.arange(300) < 30
    features = random.normal(3, random.uniform(0.1, 9, 384), (300, 384)).astype(np.float32)
    features[wanted, :40] += 20
    images = TeachingSet(np.arange(300), wanted, np.arange(300) % FOLDS)
    size, recipe = 32, TEACHING_RECIPE
    model = network.build(recipe, size, NO_NORMALISATION, 1)
    taught = label_network.teach_network(label_network.Backbone(model, features), images, labelled=60)
    kernel, bias = model.get_layer(SCORE).get_weights()
    scores = 1 / (1 + np.exp(-(features @ kernel + bias)[:, 0]))
    assert roc_auc_score(wanted, scores) > 0.95
    held_out = taught.probabilities[:, 1]
    assert np.corrcoef(scores, held_out)[0, 1] > 0.9
    assert held_out.mean() == pytest.approx(wanted.mean(), rel=0.3)  # calibrated


def test_the_features_of_three_depths_are_the_means_of_their_maps() -> None:
    size, recipe = 64, TEACHING_RECIPE
    model = network.build(recipe, size, NO_NORMALISATION, 1)
    network.load_imagenet_weights(model, recipe)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    depths = [model.get_layer(f"blocks_{block}_add").output for block in (7, 10, 14)]
    outputs = keras.Model(model.input, [*depths, model.get_layer(FEATURES).output])(pixels, training=False)
    *maps, features = (np.asarray(output) for output in outputs)
    assert [map_.shape[1:] for map_ in maps] == [(4, 4, 80), (4, 4, 112), (2, 2, 192)]
    assert features == pytest.approx(np.concatenate([map_.mean(axis=(1, 2)) for map_ in maps], axis=1), abs=1e-4)
