"""Catalogue to model: the only part that imports TensorFlow or Keras."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def _native_chatter_held_back() -> Iterator[None]:
    """TensorFlow's C++ parts write to the terminal as they load; that is shown only where loading fails."""
    with tempfile.TemporaryFile() as chatter:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except BaseException:
            chatter.seek(0)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _native_chatter_held_back():
    import keras

    keras.ops.convert_to_numpy(keras.ops.zeros(1))  # wakes the device, which is when TensorFlow speaks of it
logging.getLogger("absl").setLevel(logging.ERROR)  # `.h5` is what the user asked for, "legacy" or not
