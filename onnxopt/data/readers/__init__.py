"""Readers of data: every module in this folder that holds a `Reader` adds one; dropping a file here registers it."""

from importlib import import_module
from pkgutil import iter_modules

from onnxopt.data.readers.base import Options, Reader, Spec, path_of

__all__ = ["Options", "Reader", "Spec", "path_of", "readers"]


def readers() -> list[Reader]:
    """All readers, in the order in which they are asked whether a specification is theirs."""
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return sorted((reader() for reader in Reader.__subclasses__()), key=lambda reader: reader.priority)
