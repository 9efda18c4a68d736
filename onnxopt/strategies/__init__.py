"""Strategies: alternative forms of a model that may save bytes or time. Importing this package registers them."""

from importlib import import_module
from pkgutil import iter_modules

from onnxopt.request import Request
from onnxopt.strategies.base import Strategy

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

STRATEGIES: tuple[Strategy, ...] = tuple(sorted((cls() for cls in Strategy.__subclasses__()), key=lambda s: s.order))
"""All strategies, in the order in which they are tried."""


def strategies_for(request: Request, exact: bool) -> list[Strategy]:
    """The strategies that the user asks for. Exact ones run before the search, the others after it."""
    return [one for one in STRATEGIES if one.exact == exact and one.is_wanted(request)]


__all__ = ["STRATEGIES", "Strategy", "strategies_for"]
