"""A model of text files, published as a trained one is."""

from pathlib import Path

from astrodetect.model_store import store
from astrodetect.model_store.manifest import Manifest, Precision
from astrodetect.records import ImageContract

FILES = ("m.h5", "m.xml", "m.bin")
INT8_FILES = ("m.int8.xml", "m.int8.bin")


def manifest(precision: Precision = "f32") -> Manifest:
    return Manifest(
        name="m",
        classes=["SB", "E"],
        image=ImageContract(64),
        metrics={},
        data={},
        settings={},
        versions={},
        precision=precision,
        canary_score=0.25,
    )


def publish(folder: Path, content: str, precision: Precision = "f32") -> None:
    with store.staging(folder, "m") as staged:
        for name in (*FILES, *(INT8_FILES if precision == "int8" else ())):
            (staged / name).write_text(f"{content} {name}")
        store.publish(staged, folder, manifest(precision))
