"""Adam that also averages the weights.

Under TensorFlow one kernel, which passes over a variable's memory once, does what a dozen operations of Keras do.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from astrodetect.learning.keras_runtime import keras, raw_ops


class AveragingAdam(keras.optimizers.Adam):
    """Adam with an exponential moving average of the weights, which is a part of its state."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Adam's update of a variable and its two moments."""
        if raw_ops is None:  # not TensorFlow
            super().update_step(gradient, variable, learning_rate)
            return
        ops, index = keras.ops, self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, variable.dtype)
        raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(ops.cast(self.beta_1, variable.dtype), step),
            beta2_power=ops.power(ops.cast(self.beta_2, variable.dtype), step),
            lr=ops.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=ops.cast(gradient, variable.dtype),
        )

    def _update_model_variables_moving_average(self, trainable_variables: list[Any]) -> None:
        """average -= (1 - momentum) × (average - variable); the first average is the variable."""
        if raw_ops is None:  # not TensorFlow
            super()._update_model_variables_moving_average(trainable_variables)
            return
        ops = keras.ops
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            momentum = ops.cast(ops.not_equal(self.iterations, 0), variable.dtype) * self.ema_momentum
            raw_ops.ResourceApplyGradientDescent(
                var=average.value.handle, alpha=1 - momentum, delta=average.value - variable.value
            )

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Keep the weights after each epoch, where Keras would go on from their average."""

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model's trainable weights are their average within."""
        averages = self._model_variables_moving_average
        weights = [keras.ops.convert_to_numpy(variable) for variable in self._trainable_variables]
        for variable, average in zip(self._trainable_variables, averages, strict=True):
            variable.assign(keras.ops.copy(average))  # under JAX they would share an array, which a step then frees
        try:
            yield
        finally:
            for variable, value in zip(self._trainable_variables, weights, strict=True):
                variable.assign(value)
