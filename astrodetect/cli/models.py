"""Lists the trained models, and goes back to earlier versions of them."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from astrodetect.cli._options import Subparsers, command_parser, model_name
from astrodetect.errors import DataError
from astrodetect.settings import settings

if TYPE_CHECKING:
    from astrodetect.model_store.manifest import Manifest

MEANING = """which trained models there are, and going back to an earlier version of one

Each model keeps the three versions that newer ones replaced last, whole. `rollback` puts one of them in its place: the
one that was replaced last, unless another is named. The version that it replaces becomes an earlier one, so the same
command leads forward again. A running service takes it over by itself, without a break; what could not answer is left
where it is. New detectors (anomalies --attach) belong to the version that they were given to.
"""
EXAMPLES = """examples:
  python -m astrodetect models
  python -m astrodetect models rollback resnet50_model
  python -m astrodetect models rollback resnet50_model 5f0c3a9be214
"""
FIGURES = {"accuracy": ("accuracy", "{:.2%}"), "balanced_accuracy": ("balanced", "{:.2%}"), "auc": ("AUC", "{:.4f}")}
MEGABYTE = 1_000_000


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "models", MEANING, EXAMPLES, run)
    option("what", nargs="?", choices=("list", "rollback"), default="list", metavar="list|rollback")
    option("name", nargs="?", type=model_name, metavar="NAME", help=f"a model in {settings().models_dir.name}")
    option("version", nargs="?", metavar="VERSION", help="(default: the one that was replaced last)")
    option("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """Says what there is, or what is in place now."""
    return _list(arguments) if arguments.what == "list" else _rollback(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from astrodetect.model_store import archive  # noqa: PLC0415 - the other verbs need none of this
    from astrodetect.model_store.manifest import invalid_manifests, list_manifests, read_manifest  # noqa: PLC0415

    folder = settings().models_dir
    found = [one for one in list_manifests(folder) if arguments.name in {None, one.name}]
    broken = {name: why for name, why in invalid_manifests(folder).items() if arguments.name in {None, name}}
    if not found and not broken:
        read_manifest(folder / f"{arguments.name or settings().model}.json")  # says what makes one
    described = [_described(one, folder, archive.earlier_versions(folder, one.name)) for one in found]
    if arguments.json:
        print(to_json(described, inf_nan_mode="null", indent=2).decode())
    else:
        print("\n".join(line for model in described for line in _in_words(model)))
    for why in broken.values():
        print(f"models: {why}", file=sys.stderr)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from astrodetect.inference.engine import Engine, has_bf16  # noqa: PLC0415
    from astrodetect.model_store import archive, store  # noqa: PLC0415
    from astrodetect.model_store.manifest import list_manifests  # noqa: PLC0415

    folder, name = settings().models_dir, arguments.name
    if name is None:
        raise DataError("which model? python -m astrodetect models lists them")
    before = {one.name: one.version for one in list_manifests(folder)}.get(name)
    now = store.rollback(
        folder, name, arguments.version, precision=settings().precision, has_bf16=has_bf16, trial=Engine
    )
    if arguments.json:
        described = _described(now, folder, archive.earlier_versions(folder, name))
        print(to_json(described, inf_nan_mode="null", indent=2).decode())
        return 0
    print(f"{name}: version {now.version} {'was in place' if before == now.version else 'is back in place'}")
    if before not in {None, now.version}:
        print(f"to go forward again: python -m astrodetect models rollback {name} {before}")
    return 0


def _described(manifest: "Manifest", folder: Path, older: "dict[Path, Manifest]") -> dict[str, Any]:
    return {
        "name": manifest.name,
        "default": manifest.name == settings().model,
        **_version(manifest),
        "task": manifest.task,
        "classes": manifest.classes,
        "image": asdict(manifest.image),
        "detectors": manifest.space is not None,
        "bytes": sum((folder / file).stat().st_size for file in manifest.files if (folder / file).is_file()),
        "earlier": [_version(one) for one in older.values()],
    }


def _version(manifest: "Manifest") -> dict[str, Any]:
    return {
        "version": manifest.version,
        "created": manifest.created,
        "recipe": manifest.recipe,
        "metrics": manifest.metrics,
    }


def _in_words(model: dict[str, Any]) -> list[str]:
    """What it is called, what it is, and a line for each earlier version."""
    tells = f"{model['recipe']}: {' or '.join(model['classes'])}{', and novelty' * model['detectors']}"
    serves = "  answers where no model is named" * model["default"]
    return [
        f"{model['name']}  {_of(model)}{serves}",
        f"  {tells}; {model['bytes'] / MEGABYTE:.0f} MB",
        *(f"  earlier  {_of(one)}" for one in model["earlier"]),
    ]


def _of(version: dict[str, Any]) -> str:
    said = (version["version"], f"{version['created'][:10]} {version['created'][11:16]} UTC", _figures(version))
    return "  ".join(part for part in said if part)


def _figures(version: dict[str, Any]) -> str:
    """Those of the test images, which were not learnt from."""
    test = version["metrics"].get("test", {})
    return ", ".join(f"{words} {form.format(test[name])}" for name, (words, form) in FIGURES.items() if name in test)
