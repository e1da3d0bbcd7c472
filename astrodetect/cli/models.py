"""`models`: list trained models, roll back to earlier versions, sign and verify."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from astrodetect.cli._options import Subparsers, command_parser, model_name, refuse_unused
from astrodetect.errors import DataError, ModelError
from astrodetect.settings import settings

if TYPE_CHECKING:
    from astrodetect.model_store.manifest import Manifest

DESCRIPTION = """list trained models, roll one back to an earlier version, sign and verify them

Each model keeps its last three replaced versions. `rollback` restores one of them: the last one unless VERSION is
given. The version that it replaces is kept as an earlier one, so the same command undoes a rollback. A running service
loads the restored version by itself without downtime. A version that cannot be loaded is not restored. Detectors
(anomalies --attach) belong to the version that they were attached to.

`new-key --key FILE` writes a private key (Ed25519, PEM) and prints the public one; `sign NAME --key FILE` signs the
version in place; `verify` checks all files of all models and prints whose signatures hold. With public keys in
ASTRODETECT_REQUIRE_SIGNED only models that one of them has signed are loaded.
"""
EXAMPLES = """examples:
  python -m astrodetect models
  python -m astrodetect models rollback resnet50_model
  python -m astrodetect models rollback resnet50_model 5f0c3a9be214
  python -m astrodetect models new-key --key signing.pem
  python -m astrodetect models sign resnet50_model --key signing.pem
  python -m astrodetect models verify
"""
METRIC_FORMATS = {
    "accuracy": ("accuracy", "{:.2%}"),
    "balanced_accuracy": ("balanced", "{:.2%}"),
    "auc": ("AUC", "{:.4f}"),
}
BYTES_PER_MB = 1_000_000


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "models", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("action", nargs="?", choices=tuple(ACTIONS), default="list", metavar="|".join(ACTIONS))
    parser.add_argument(
        "name", nargs="?", type=model_name, metavar="NAME", help=f"name of a model in {settings().models_dir.name}"
    )
    parser.add_argument("version", nargs="?", metavar="VERSION", help="(default: the version that was replaced last)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key, of new-key and sign")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print the versions in place."""
    if (arguments.key is not None) != (arguments.action in {"new-key", "sign"}):
        raise DataError("new-key and sign need --key FILE, the others take none")
    if (arguments.version and arguments.action != "rollback") or (arguments.name and arguments.action == "new-key"):
        raise DataError("only rollback takes a VERSION, and new-key takes no name")
    if arguments.action not in {"list", "rollback"}:
        refuse_unused(arguments, "json", f"with {arguments.action}")
    return int(ACTIONS[arguments.action](arguments))


def _list(arguments: argparse.Namespace) -> int:
    from astrodetect.model_store import mirror, versions  # noqa: PLC0415 - not needed by the other commands
    from astrodetect.model_store.manifest import invalid_manifests, list_manifests, read_manifest  # noqa: PLC0415

    folder = settings().models_dir
    mirror.pull_all(folder)
    manifests = [manifest for manifest in list_manifests(folder) if arguments.name in {None, manifest.name}]
    invalid = {name: error for name, error in invalid_manifests(folder).items() if arguments.name in {None, name}}
    if not manifests and not invalid:
        read_manifest(folder / f"{arguments.name or settings().model}.json")  # raises, with the command to train it
    models = [
        _model_as_json(manifest, folder, versions.earlier_versions(folder, manifest.name)) for manifest in manifests
    ]
    if arguments.json:
        print(to_json(models, inf_nan_mode="null", indent=2).decode())
    else:
        print("\n".join(line for model in models for line in _model_lines(model)))
    for error in invalid.values():
        print(f"models: {error}", file=sys.stderr)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from astrodetect.inference.engine import Engine, has_bf16  # noqa: PLC0415
    from astrodetect.model_store import mirror, store, versions  # noqa: PLC0415
    from astrodetect.model_store.manifest import list_manifests  # noqa: PLC0415

    folder, name = settings().models_dir, arguments.name
    if name is None:
        raise DataError("which model? python -m astrodetect models lists them")
    mirror.pull_all(folder)
    before = {manifest.name: manifest.version for manifest in list_manifests(folder)}.get(name)
    restored = store.rollback(
        folder, name, arguments.version, precision=settings().precision, has_bf16=has_bf16, trial=Engine
    )
    if arguments.json:
        model = _model_as_json(restored, folder, versions.earlier_versions(folder, name))
        print(to_json(model, inf_nan_mode="null", indent=2).decode())
        return 0
    print(f"{name}: version {restored.version} {'was already in place' if before == restored.version else 'restored'}")
    if before not in {None, restored.version}:
        print(f"to undo: python -m astrodetect models rollback {name} {before}")
    return 0


def _model_as_json(manifest: "Manifest", folder: Path, earlier: "dict[Path, Manifest]") -> dict[str, Any]:
    return {
        "name": manifest.name,
        "default": manifest.name == settings().model,
        **_version_as_json(manifest),
        "task": manifest.task,
        "classes": manifest.classes,
        "image": asdict(manifest.image),
        "detectors": manifest.space is not None,
        "bytes": sum((folder / file).stat().st_size for file in manifest.files if (folder / file).is_file()),
        "earlier": [_version_as_json(version) for version in earlier.values()],
    }


def _version_as_json(manifest: "Manifest") -> dict[str, Any]:
    return {
        "version": manifest.version,
        "created": manifest.created,
        "recipe": manifest.recipe,
        "metrics": manifest.metrics,
        "simulated": manifest.simulated,
        "warnings": manifest.warnings,
    }


def _model_lines(model: dict[str, Any]) -> list[str]:
    """Name and version, description, and a line for each earlier version."""
    outputs = f"{model['recipe']}: {' or '.join(model['classes'])}{', and novelty' * model['detectors']}"
    default = "  default model" * model["default"]
    return [
        f"{model['name']}  {_version_line(model)}{default}",
        f"  {outputs}; {model['bytes'] / BYTES_PER_MB:.0f} MB",
        *(f"  {warning}" for warning in model["warnings"]),
        *(f"  earlier  {_version_line(version)}" for version in model["earlier"]),
    ]


def _version_line(version: dict[str, Any]) -> str:
    fields = (version["version"], f"{version['created'][:10]} {version['created'][11:16]} UTC", _test_metrics(version))
    return "  ".join(field for field in fields if field)


def _test_metrics(version: dict[str, Any]) -> str:
    test = version["metrics"].get("test", {})
    return ", ".join(
        f"{label} {form.format(test[name])}" for name, (label, form) in METRIC_FORMATS.items() if name in test
    )


def _new_key(arguments: argparse.Namespace) -> int:
    from astrodetect.model_store import signatures  # noqa: PLC0415

    print(f"ASTRODETECT_REQUIRE_SIGNED={signatures.new_key(arguments.key)}")
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    from astrodetect.model_store import store  # noqa: PLC0415

    if arguments.name is None:
        raise DataError("which model? python -m astrodetect models lists them")
    manifest = store.sign(settings().models_dir, arguments.name, arguments.key)
    print(f"{manifest.name}: version {manifest.version} signed")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from astrodetect.model_store import mirror, signatures, store  # noqa: PLC0415
    from astrodetect.model_store.manifest import invalid_manifests, list_manifests  # noqa: PLC0415

    folder = settings().models_dir
    mirror.pull_all(folder)
    manifests = [manifest for manifest in list_manifests(folder) if arguments.name in {None, manifest.name}]
    for name, error in invalid_manifests(folder).items():
        if arguments.name in {None, name}:
            raise ModelError(error)
    if not manifests:
        raise DataError(f"no model {arguments.name}" if arguments.name else "there are no models")
    for manifest in manifests:
        store.verify(folder, manifest, "f32", has_bf16=lambda: False)
        signatures.require_signature(manifest, settings().require_signed)
        keys = signatures.signers(manifest)
        signed = f"signed by {', '.join(sorted(keys))}" if keys else "not signed"
        print(f"{manifest.name}: version {manifest.version} is whole, {signed}")
    return 0


ACTIONS = {"list": _list, "rollback": _rollback, "new-key": _new_key, "sign": _sign, "verify": _verify}
