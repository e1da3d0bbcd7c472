"""Signatures of models: Ed25519 over the manifest, which has the SHA-256 of every file of the model."""

import base64
import json
from dataclasses import asdict, replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from astrodetect.errors import ModelError
from astrodetect.model_store.manifest import Manifest


def new_key(path: Path) -> str:
    """Write a new private key, readable by its owner only; the public key."""
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    if path.exists():
        raise ModelError(f"{path} exists: a key is never replaced")
    try:
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(*pem))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    return _public_text(key.public_key())


def sign(manifest: Manifest, key_file: Path) -> Manifest:
    """The manifest with a signature by this private key, in place of an earlier one by the same key."""
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise ModelError(f"{key_file}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ModelError(f"{key_file} is no private key without a password, in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(f"{key_file} is no Ed25519 key: python -m astrodetect models new-key --key FILE makes one")
    signature = base64.b64encode(key.sign(_signed_bytes(manifest))).decode()
    return replace(manifest, signatures=manifest.signatures | {_public_text(key.public_key()): signature})


def signers(manifest: Manifest) -> set[str]:
    """The public keys whose signatures hold."""
    content = _signed_bytes(manifest)
    return {key for key, signature in manifest.signatures.items() if _holds(key, signature, content)}


def require_signature(manifest: Manifest, trusted: str) -> None:
    """ModelError unless one of these public keys, separated by commas, has signed the model; of no text nothing."""
    keys = {key.strip() for key in trusted.split(",")}
    if trusted and not keys & signers(manifest):
        raise ModelError(
            f"model {manifest.name}: no key in ASTRODETECT_REQUIRE_SIGNED has signed it: sign it with "
            f"python -m astrodetect models sign {manifest.name} --key FILE"
        )


def _holds(key: str, signature: str, content: bytes) -> bool:
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        public.verify(base64.b64decode(signature, validate=True), content)
    except (ValueError, InvalidSignature):
        return False
    return True


def _signed_bytes(manifest: Manifest) -> bytes:
    fields = asdict(manifest)
    del fields["signatures"]
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _public_text(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes_raw()).decode()
