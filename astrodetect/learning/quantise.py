"""A float32 network to int8 where that costs no decisions: the recipe, with its reasons in docs/decisions.md."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.inference.engine import SCORE
from astrodetect.progress import Bar

CALIBRATION_IMAGES = 100  # more of them change nothing but the time it takes


def to_int8(network: Any, pixels: NDArray[np.uint8]) -> Any:
    """The OpenVINO network with int8 convolutions, their ranges taken from these images."""
    import nncf  # noqa: PLC0415 - it takes seconds to load
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters  # noqa: PLC0415
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # noqa: PLC0415

    logging.getLogger("nncf").setLevel(logging.ERROR)
    with Bar("trying int8", len(pixels)) as bar, contextlib.redirect_stdout(io.StringIO()):  # NNCF has bars of its own

        def as_batch(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            bar.step()
            return image[np.newaxis]

        return nncf.quantize(
            network,
            nncf.Dataset(pixels, as_batch),
            subset_size=len(pixels),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=list(_kept_in_float(network))),
            advanced_parameters=AdvancedQuantizationParameters(
                # The mean over images of their extremes cuts off what the brightest galaxies have to say.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                disable_bias_correction=True,  # it moved scores further away, and takes half the time
            ),
        )


def _kept_in_float(network: Any) -> Iterator[str]:
    """The few places where eight bits lose decisions, by name.

    The first convolution sees faint galaxies in the lowest levels of the pixels. The head decides. The residual sums
    pass through every block: rounded at each, they lose what the blocks add. The sums of the first stage are the
    largest in memory and the least sensitive, so they are left to int8.
    """
    nodes = network.get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    answers = network.output(SCORE).get_partial_shape()[1].get_length()  # as many channels as the map's convolution has
    yield convolutions[0].get_friendly_name()
    for node in nodes:
        if node.get_type_name() == "MatMul" or (node in convolutions and _channels(node) == answers):
            yield node.get_friendly_name()
    sums = [node for node in nodes if node.get_type_name() == "Add" and not _has_constant(node)]
    for node in sums:
        if _channels(node) > _channels(sums[0]):
            yield node.get_friendly_name()


def _channels(node: Any) -> int:
    return int(node.output(0).get_partial_shape()[1].get_length())


def _has_constant(node: Any) -> bool:
    return any(entry.get_source_output().get_node().get_type_name() == "Constant" for entry in node.inputs())
