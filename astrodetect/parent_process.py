"""What a process started by `multiprocessing` does once its parent has ended."""

import multiprocessing
import threading
from collections.abc import Callable


def when_parent_ends(action: Callable[[], object]) -> None:
    """Call `action` in a thread once the parent has ended, also where it was killed; nothing in other processes."""
    if parent := multiprocessing.parent_process():

        def wait() -> None:
            parent.join()
            action()

        threading.Thread(target=wait, name="parent", daemon=True).start()
