"""Optional packages, which the extras of the installation bring."""

from importlib.util import find_spec

from astrodetect.errors import PackagesMissing

EXTRAS = {"train": ("keras", "h5py", "nncf"), "notebook": ("pandas",), "cluster": ("ray",), "sources": ("sep",)}


def require_extra(extra: str, purpose: str) -> None:
    """Raise PackagesMissing, with what to install, where a package of this extra is missing."""
    if missing := [name for name in EXTRAS[extra] if find_spec(name) is None]:
        packages, remedy = ", ".join(missing), f"pip install 'astrodetect[{extra}]'"
        raise PackagesMissing(f"{purpose} needs packages that are missing ({packages}): {remedy}")
