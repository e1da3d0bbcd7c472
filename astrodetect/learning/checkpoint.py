"""Where a training run stands, on disk: whole at any moment, whatever happens in between."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras

from astrodetect import atomic_files

STATE = "state.json"


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """How far a run is; `run` tells one run's settings and images from another's."""

    run: str
    epoch: int = 0  # epochs done
    step: int = 0  # batches done of the epoch after those
    loss: float = 0.0  # their mean loss
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0  # 0: none yet
    weights: str = ""
    best_weights: str = ""


class Checkpoint:
    """The folder that holds a state, the weights that go with it (the optimiser's too) and the best weights so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, run: str) -> CheckpointState | None:
        """The state of this very run, None where there is none: another run's is of no use and is dropped."""
        try:
            state = CheckpointState(**json.loads((self._folder / STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return state if state.run == run else None

    def save(self, model: keras.Model, state: CheckpointState, *, best: bool = False) -> CheckpointState:
        """Keeps `state` with the model's weights; `best`: they are the best so far."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"epoch-{state.epoch}-step-{state.step}.weights.h5"
        model.save_weights(self._folder / name)
        atomic_files.sync_file(self._folder / name)
        state = CheckpointState(**{**asdict(state), "weights": name} | ({"best_weights": name} if best else {}))
        atomic_files.write_text(self._folder / STATE, json.dumps(asdict(state)))
        for stale in set(self._folder.glob("*.weights.h5")) - {
            self._path(state.weights),
            self._path(state.best_weights),
        }:
            stale.unlink()
        return state

    def restore(self, model: keras.Model, state: CheckpointState) -> None:
        """Puts the model and its optimiser back to where `state` was saved."""
        model.optimizer.build(model.trainable_variables)  # else Keras has no place to load its state into
        model.load_weights(self._path(state.weights))

    def restore_best(self, model: keras.Model, state: CheckpointState) -> None:
        """Puts the model to the best weights of the run."""
        model.load_weights(self._path(state.best_weights))

    def clear(self) -> None:
        """The run is over, or of no more use."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / name
