"""Every test, or the tests that are named: what `python3 run.py test` runs once all is installed."""

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from run import EXIT_INTERRUPTED, StepFailed, call  # noqa: E402

PAGE_TESTS = Path("tests", "browser")
FAULTS_BESIDE_OTHERS = {"test_batching", "test_mutations", "test_openapi", "test_score_on_ray"}  # they time nothing
ONE_BY_ONE = [  # they overload a service, and time what it answers
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "tests" / "faults").glob("test_*.py"))
    if path.stem not in FAULTS_BESIDE_OTHERS
]
SIDE_BY_SIDE = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]  # the slowest first
SIDE_BY_SIDE += ["--max-worker-restart=0"]  # after a crash xdist may wait for ever
SIDE_BY_SIDE += [f"--ignore={path}" for path in ONE_BY_ONE]


def main(pytest_arguments: Sequence[str]) -> int:
    """Exit code 0 passed, 1 failed, 130 interrupted."""
    try:
        if needs_browser(pytest_arguments):
            sys.stdout.write("browser: for the page tests\n")
            sys.stdout.flush()
            call(str(PAGE_TESTS / "chromium.py"))
        for tests in [pytest_arguments] if pytest_arguments else [SIDE_BY_SIDE, ONE_BY_ONE]:
            call("-m", "pytest", *tests)
    except StepFailed as failure:
        sys.stderr.write(f"run.py: {failure}\n")
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # run.py says so
    return 0


def needs_browser(pytest_arguments: Sequence[str]) -> bool:
    """Whether the page tests are among the tests that were named."""
    paths = (Path(argument.partition("::")[0]) for argument in pytest_arguments)
    named = [(ROOT / path).resolve() for path in paths if (ROOT / path).exists()]
    pages = ROOT / PAGE_TESTS
    return not named or any(pages.is_relative_to(path) or path.is_relative_to(pages) for path in named)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
