"""The names of labels: their page, keys and roles, and what roles change."""

import csv
import io
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from astrodetect.errors import LabelNameConflict
from astrodetect.labels import LabelName, assign_keys, parse_label, parse_tag
from astrodetect.records import ScoredImage
from astrodetect.service.authentication import needed_scope
from astrodetect.service.middleware.audit import is_audited
from astrodetect.service.review_queue import LabelProgress
from astrodetect.service.web.projection_map import legend_by_label
from database import Database

SCORED = ScoredImage("m51.jpg", "ab" * 32, score=0.9, threshold=0.5, model="resnet50_model", model_version="1")


def labelled(log: Database, label: str) -> int:
    [row] = log.record_many([replace(SCORED, image_sha256=uuid.uuid4().hex * 2, request_id=uuid.uuid4())])
    log.add_label(row.id, label, who=None, note=None)
    return row.id


def test_names_are_added_and_changed_and_those_of_labels_keep_their_name(log: Database) -> None:
    labelled(log, "merger")
    log.label_names.save("trail", None, "artefact", instead_of=None)
    log.label_names.save("merger", "m", "interesting", instead_of="merger")  # which no one added before
    log.label_names.save("satellite", "x", "artefact", instead_of="trail")
    labelled(log, "satellite")
    assert log.label_names.list() == [
        LabelName("merger", "m", "interesting", 1),
        LabelName("satellite", "x", "artefact", 1),
    ]
    assert log.label_names.roles() == {"satellite": "artefact"}
    for name, key, old, message in (
        ("ordinary", None, None, "there is a label ordinary already"),
        ("merger", None, None, "there is a label merger already"),
        ("merger", None, "satellite", "there is a label merger already"),
        ("trail", "x", "satellite", "1 labels have the name satellite"),
        ("ring", "m", None, "the key m is that of merger"),
    ):
        with pytest.raises(LabelNameConflict, match=message):
            log.label_names.save(name, key, "interesting", instead_of=old)
    with pytest.raises(LabelNameConflict, match="labels have the name merger: it stays"):
        log.label_names.remove("merger")
    log.label_names.save("ring", None, "interesting", instead_of=None)
    log.label_names.remove("ring")
    assert len(log.label_names.list()) == 2


def test_of_people_who_add_one_key_at_once_one_gets_it(database_url: str) -> None:
    log = Database(database_url, connections=8, timeout_s=5)

    def save(name: str) -> bool:
        try:
            log.label_names.save(name, "m", "artefact", instead_of=None)
        except LabelNameConflict:
            return False
        return True

    with closing(log), ThreadPoolExecutor(4) as people:
        for _ in range(20):
            assert sorted(people.map(save, ["merger", "minor", "ring", "lens"])) == [False, False, False, True]
            [name] = log.label_names.list()
            log.label_names.remove(name.name)


def test_a_name_with_separate_accents_is_the_one_with_letters_that_have_them() -> None:
    assert parse_label("Ne\u0301buleuse") == parse_tag("n\xe9buleuse") == "n\xe9buleuse"
    for name in (
        "\u0917\u094b\u0932 \u0906\u0915\u093e\u0936\u0917\u0902\u0917\u093e",
        "\u0e01\u0e32\u0e41\u0e25\u0e47\u0e01\u0e0b\u0e35\u0e48",
        "I\u0307zmir",
    ):  # vowels, tones
        assert parse_label(parse_tag(name)) == parse_label(name)
    invisible = ("\u200bmerger", "mer\u202eger", "merger\ufeff", "mer\xadger", "mer\ufe0fger", "m\u034fb", "\u3164")
    for refused in (*invisible, "\u094b\u0917", "a \u0301b", "1\u0301", "b" + 5 * "\u0301", "\u0917\u094b" * 21):
        with pytest.raises(ValueError, match="letters, digits"):
            parse_label(refused)


def test_a_name_of_very_many_accents_is_refused_before_it_is_normalised() -> None:
    """Normalising takes time by the square of their number: minutes for these."""
    with pytest.raises(ValueError, match=r"up to 40 characters, not 400,001"):
        parse_label("b" + "\u0315\u0300" * 200_000)


def test_names_without_a_key_get_the_free_digits() -> None:
    names = [LabelName(f"n{n:02}", "2" if n == 5 else None, "interesting", 0) for n in range(12)]
    keys = [name.key for name in assign_keys(names)]
    assert keys == ["1", "3", "4", "5", "6", "2", "7", "8", "9", None, None, None]


def test_a_role_decides_what_a_name_counts_as_in_progress_and_on_the_map() -> None:
    given = {"a": "trail", "b": "merger", "c": "interesting", "d": "ordinary"}
    assert LabelProgress.of(given, {"trail": "artefact"}).found_per_100 == 50
    assert LabelProgress.of(given, {}).found_per_100 == 75
    legend = legend_by_label([*enumerate(given.values())], len(given) + 1, {"trail": "artefact"})
    assert {group.name: group.count for group in legend.groups} == {
        "not labelled": 1, "interesting": 1, "ordinary": 1, "artefact": 1, "merger": 1
    }  # fmt: skip


def test_the_queue_is_ordered_anew_by_the_roles_of_names(log: Database) -> None:
    from astrodetect.service.review_queue import RankingRequest

    assert RankingRequest("s").choice != RankingRequest("s", roles={"trail": "artefact"}).choice


def field(page: Any, name: str, part: str) -> str:
    """The form of a name."""
    form = re.search(rf'<form[^>]*aria-label="{name}">.*?</form>', page.text, re.DOTALL)
    assert form, page.text
    return (re.search(part, form[0]) and form[0]) or ""


def test_the_page_changes_names_for_all_reviewers(page_client: TestClient, log_url: str) -> None:
    log = Database(log_url, connections=1, timeout_s=5)
    id_ = labelled(log, "merger")
    page_client.follow_redirects = True
    page = page_client.post("/review/names", data={"name": " Satellite  Trail", "role": "artefact", "key": "x"})
    assert field(page, "satellite trail", r"<option selected>artefact</option>")
    assert field(page, "merger", "readonly")
    assert "Remove" not in field(page, "merger", "1 label<")
    change = {"name": "merger", "role": "ordinary", "key": "m"}
    page_client.post("/review/names/merger", data=change)
    prediction = page_client.get(f"/history/{id_}").text
    assert re.search(r'value="merger"[^>]* data-key="m" data-role="ordinary"', prediction)
    assert 'class="chip ordinary">merger<' in prediction
    for url, form, status, message in (
        ("/review/names", {"name": "ring", "key": "m"}, 409, "The key m is that of merger."),
        ("/review/names", {"name": "<b>"}, 422, "not &lt;b&gt;."),
        ("/review/names/merger", change | {"name": "ring"}, 409, "1 labels have the name merger"),
        ("/review/names/merger/remove", {}, 409, "Labels have the name merger"),
    ):
        answer = page_client.post(url, data=form)
        assert (answer.status_code, message in answer.text) == (status, True), answer.text
    for wrong in ({"name": "ring", "key": "i"}, {"name": "ring", "role": "odd"}):
        assert page_client.post("/review/names", data=wrong).status_code == 422
    page_client.post("/review/names/satellite trail/remove")
    assert [name.name for name in log.label_names.list()] == ["merger"]
    log.close()
    audited = [entry["request"] for entry in csv.DictReader(io.StringIO(page_client.get("/audit.csv").text))]
    assert {"POST /review/names", "POST /review/names/merger"} <= {*audited}


def test_names_are_read_and_changed_as_json(page_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "/labels/names"
    added = page_client.put(f"{url}/Satellite  Trail", json={"role": "artefact", "key": "x"})
    assert added.json() == {"name": "satellite trail", "role": "artefact", "key": "x", "labels": 0}
    renamed = page_client.put(f"{url}/satellite trail", json={"name": "Trail", "role": "artefact"}).json()
    assert page_client.get(url).json() == [renamed] == [{"name": "trail", "role": "artefact", "key": None, "labels": 0}]
    for name, body, status in (("ordinary", {}, 409), ("<b>", {}, 422), ("a", {"role": "odd"}, 422)):
        assert page_client.put(f"{url}/{name}", json=body).status_code == status
    monkeypatch.setattr("astrodetect.db.label_names.MAX_LABEL_NAMES", 1)
    answer = page_client.put(f"{url}/ring", json={})
    assert (answer.status_code, "there are 1 names already" in answer.text) == (409, True)
    assert [page_client.delete(f"{url}/trail").status_code for _ in range(2)] == [204, 204]
    assert page_client.get(url).json() == []


def test_only_who_may_write_labels_changes_names_and_tags() -> None:
    for path in ("/review/names", "/review/names/merger", "/history/1/tag", "/predictions/1/untag", "/review/grid/tag"):
        assert (needed_scope("POST", path), is_audited("POST", path)) == ("review", True), path
    for method in ("PUT", "DELETE"):
        assert (needed_scope(method, "/labels/names/a"), is_audited(method, "/labels/names/a")) == ("review", True)
    assert (needed_scope("GET", "/labels/names"), is_audited("GET", "/labels/names")) == ("read", False)
    assert not is_audited("GET", "/review/names")
