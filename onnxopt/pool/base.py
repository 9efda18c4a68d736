"""The protocol of pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_R = TypeVar("_R")


class Shared(Protocol, Generic[_T_co]):
    """A large value that many items need. It travels once to each place where they run."""

    @property
    def value(self) -> _T_co:
        """The value, which is not to be changed."""


class Pool(Protocol):
    """Runs a function on many items. What it finds does not depend on where, and on how many places there are."""

    @property
    def here(self) -> bool:
        """Whether functions run in this process."""

    @property
    def places(self) -> int:
        """Items that run at a time."""

    def share(self, value: _T) -> Shared[_T]:
        """The value, for functions of this pool to refer to."""

    def map(self, do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
        """What `do` returns for each item, in their order. Each takes one core.

        Raises what the first failing call raises.
        """

    def stream(self, do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
        """`map` for items of which each keeps all cores busy, or takes much memory: here, they run one by one."""

    def as_ended(self, do: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[tuple[int, _R]]:
        """The index of each item and what `do` returns for it, as they end. Raises as `map` does."""
