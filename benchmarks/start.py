"""`python -m benchmarks.start`: how soon the service is ready with PostgreSQL up, and what memory it holds in use."""

import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil

from astrodetect import postgres
from astrodetect.settings import ROOT, settings

STARTS = 7
REQUESTS = 20
PORT = 8177
URL = f"http://127.0.0.1:{PORT}"


def main() -> None:
    """Starts the service several times, and prints medians."""
    images = sorted((settings().data_dir / "sample" / "test" / "E").glob("*.jpg"))
    if not images:
        sys.exit("no sample: python -m astrodetect simulate")
    times, memory = [], []
    with postgres.serve(settings().postgres_dir, postgres.EMBEDDED_DATABASE):
        for _ in range(STARTS):
            began = time.monotonic()
            command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(PORT), "--log-level", "warning"]
            service = subprocess.Popen(command, cwd=ROOT)
            try:
                while not is_ready():
                    time.sleep(0.01)
                times.append(time.monotonic() - began)
                for image in images[:REQUESTS]:
                    subprocess.run(
                        ["curl", "-sf", "-F", f"file=@{image}", f"{URL}/detect"],  # noqa: S607
                        check=True,
                        stdout=subprocess.DEVNULL,
                    )
                memory.append(psutil.Process(service.pid).memory_info().rss / 1e6)
            finally:
                service.terminate()
                service.wait()
    print(f"ready after {statistics.median(times):.2f} s (median of {STARTS}; {min(times):.2f} to {max(times):.2f})")
    print(f"memory {statistics.median(memory):.0f} MB after {REQUESTS} requests")


def is_ready() -> bool:
    """Whether the service says so."""
    try:
        with urllib.request.urlopen(f"{URL}/health/ready", timeout=2):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


if __name__ == "__main__":
    main()
