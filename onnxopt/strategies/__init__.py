"""Other forms of a model that may save bytes or time: every module here that holds a strategy registers it."""

from importlib import import_module
from pkgutil import iter_modules

from onnxopt.request import Request
from onnxopt.strategies.base import Strategy

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

STRATEGIES: tuple[Strategy, ...] = tuple(sorted((cls() for cls in Strategy.__subclasses__()), key=lambda s: s.order))
"""All of them, in the order in which they are pursued."""


def strategies_for(request: Request, exact: bool) -> list[Strategy]:
    """Those that the user asks for; `exact` ones come before the search, the others after it."""
    return [one for one in STRATEGIES if one.exact == exact and one.is_wanted(request)]


__all__ = ["STRATEGIES", "Strategy", "strategies_for"]
