"""Weights files of others: nothing outside the file is read, and nothing before its shape is known to fit."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from astrodetect.errors import ModelError
from astrodetect.learning import network, weights_file
from astrodetect.recipes import PixelStatistics


def _external(file: h5py.File, folder: Path) -> None:
    file["layer"]["w"] = h5py.ExternalLink(str(folder / "other.h5"), "/w")


def _soft(file: h5py.File, _: Path) -> None:
    file["layer"]["w"] = h5py.SoftLink("/elsewhere")


def _external_storage(file: h5py.File, folder: Path) -> None:
    file["layer"].create_dataset("w", (7, 7), "f4", external=[(str(folder / "secret"), 0, 196)])


def _virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "w", (2, 2))
    file["layer"].create_virtual_dataset("w", layout)


def _petabytes(file: h5py.File, _: Path) -> None:
    file["layer"].create_dataset("w", (2**50, 2), "f4", chunks=(1024, 2))


def _large_chunks(file: h5py.File, _: Path) -> None:
    file["layer"].create_dataset("w", (2, 2), "f4", chunks=(2**20, 2), maxshape=(None, 2), compression="gzip")


def _text(file: h5py.File, _: Path) -> None:
    file["layer"]["w"] = "text"


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (_external, "w is a link, which may lead to another file"),
        (_soft, "w is a link, which may lead to another file"),
        (_external_storage, "the values of w are not in this file"),
        (_virtual, "the values of w are not in this file"),
        (_large_chunks, "w is stored in parts that are larger than itself"),
        (_text, "w is no array of numbers"),
        (_petabytes, "holds no cnn"),
    ],
)
def test_a_weights_file_that_leads_elsewhere_or_declares_much_is_refused_unread(
    tmp_path: Path, put: Callable[[h5py.File, Path], None], message: str
) -> None:
    model = network.build("cnn", 32, PixelStatistics((20.0, 22.0, 24.0), (400.0, 410.0, 420.0)), 1)
    path = tmp_path / "weights.h5"
    (tmp_path / "secret").write_bytes(bytes(196))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["w"] = np.zeros((2, 2), np.float32)
    layer = network.backbone_layers(model)[0].name  # the first whose shapes are compared
    with h5py.File(path, "w") as file:
        file.create_group("layer").attrs["weight_names"] = ["w"]
        put(file, tmp_path)
        file.move("layer", layer)
        file.attrs["layer_names"] = [layer]
    with pytest.raises(ModelError, match=message):
        network.load_weights_file(model, "cnn", path)


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    model = network.build("cnn", 32, PixelStatistics((20.0, 22.0, 24.0), (400.0, 410.0, 420.0)), 1)
    model.save(path := tmp_path / "weights.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights/conv2/conv2/kernel"][0, 0, 0, 0] = np.inf
    with pytest.raises(ModelError, match=r"weights.h5 is damaged: layer conv2 has values that are no numbers"):
        network.load_weights_file(model, "cnn", path)


def test_a_file_that_hdf5_reads_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["layer"]
    data = bytearray(path.read_bytes())
    first = data.index(b"GCOL") + 16  # object of the heap of texts: two bytes of number, six others, eight of length
    data[first : first + 2], data[first + 8 : first + 16] = bytes(2), bytes(8)
    path.write_bytes(data)
    monkeypatch.setattr(weights_file, "PROBE_S", 3.0)
    with pytest.raises(ModelError, match=r"weights\.h5 is damaged: HDF5"), weights_file.open_weights(path):
        pass
