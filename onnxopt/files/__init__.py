"""Files on disk: written whole or not at all, and never over a file that is read."""

from onnxopt.files.mapped import Mapped
from onnxopt.files.places import cache_folder
from onnxopt.files.reading import near, read_text, reading
from onnxopt.files.spool import Spool
from onnxopt.files.temporary import Folder
from onnxopt.files.writing import write_atomically, writing

__all__ = ["Folder", "Mapped", "Spool", "cache_folder", "near", "read_text", "reading", "write_atomically", "writing"]
