"""What is done to images that train, so that none comes twice."""

from __future__ import annotations

from enum import StrEnum

from onnxopt.errors import OnnxoptError


class Augment(StrEnum):
    """A change of an image that leaves what it shows."""

    FLIP = "flip"
    """Left becomes right, in half of the images."""
    CROP = "crop"
    """Moved by up to an eighth of its sides; the edge fills what is left."""
    NOISE = "noise"
    """With noise of a tenth of its contrast."""
    BLEND = "blend"
    """With a fifth of another image, in half of the images: a network does not know these by heart."""


USUAL = (Augment.FLIP, Augment.CROP, Augment.BLEND)
"""Of pictures, where the user does not say what to do."""


def parse(text: str) -> tuple[Augment, ...]:
    """Reads ``flip,crop``, or ``none``. Raises OnnxoptError for anything else."""
    if text.strip().lower() == "none":
        return ()
    names = [name.strip().lower() for name in text.split(",")]
    try:
        return tuple(dict.fromkeys(map(Augment, names)))
    except ValueError:
        raise OnnxoptError(f"--augment is {text!r}, expected some of {', '.join(Augment)}, as in --augment flip,crop, "
                           "or none") from None  # fmt: skip
