"""Sections of the HTML page: every module in this folder that holds one registers it, so a file dropped here is all."""

from importlib import import_module
from pkgutil import iter_modules

from onnxopt.report.sections.base import Section

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

SECTIONS: tuple[Section, ...] = tuple(sorted((cls() for cls in Section.__subclasses__()), key=lambda one: one.order))
"""Every section, in the order of the page."""

__all__ = ["SECTIONS", "Section"]
