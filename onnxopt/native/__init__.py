"""The native libraries' C ABIs (include/onnxopt.h, quantizer/quantizer.h).

Only this package touches ctypes. The libraries are loaded at the first call.
"""

from collections.abc import Mapping

from onnxopt.native._codecs import (
    PREFERENCES,
    codec_ids,
    decode,
    decode_floats,
    decode_lossless,
    encode,
    encode_lossless,
    lossless_stream,
)
from onnxopt.native._container import RECONSTRUCTIONS, Container, Entry, prepared
from onnxopt.native._elements import EIGHT_BITS, PAIRED, SIXTEEN_BITS, file_bytes, paired
from onnxopt.native._library import (
    LARGE_BLOCK,
    SMALL_BLOCK,
    keep_memory,
    library_path,
    return_memory,
    set_simd,
    simd,
    version,
)
from onnxopt.native._quantizer import FINEST, QuantizerOptions, quantize
from onnxopt.native._repeats import Stream, repeats_far, varint

__all__ = [
    "CODECS",
    "EIGHT_BITS",
    "FINEST",
    "LARGE_BLOCK",
    "PAIRED",
    "PREFERENCES",
    "RECONSTRUCTIONS",
    "SIXTEEN_BITS",
    "SMALL_BLOCK",
    "Container",
    "Entry",
    "QuantizerOptions",
    "Stream",
    "decode",
    "decode_floats",
    "decode_lossless",
    "encode",
    "encode_lossless",
    "file_bytes",
    "keep_memory",
    "library_path",
    "lossless_stream",
    "paired",
    "prepared",
    "quantize",
    "repeats_far",
    "return_memory",
    "set_simd",
    "simd",
    "varint",
    "version",
]

CODECS: Mapping[str, int]
"""The id of every codec in the library, by name, in order of id."""


def __getattr__(name: str) -> Mapping[str, int]:
    if name == "CODECS":  # only the library knows them
        return codec_ids()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
