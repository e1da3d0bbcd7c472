"""A queue that takes only so much memory."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Name = TypeVar("Name")
Thing = TypeVar("Thing")


class BoundedQueue(Generic[Name, Thing]):
    """Things in the order in which they came, so many bytes at most."""

    def __init__(self, most_bytes: int, size: Callable[[Thing], int]) -> None:
        self._most_bytes, self._size = most_bytes, size
        self._things: OrderedDict[Name, Thing] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._things)

    def get(self, name: Name) -> Thing | None:
        return self._things.get(name)

    def put(self, name: Name, thing: Thing, *, last: bool = True) -> list[Name]:
        """At the end, or before all others; the names of the oldest, which had to go for it."""
        self.pop(name)
        self._things[name] = thing
        self._things.move_to_end(name, last=last)
        self._bytes += self._size(thing)
        gone = []
        while self._bytes > self._most_bytes:
            gone.append(self.take()[0])
        return gone

    def pop(self, name: Name) -> None:
        if (thing := self._things.pop(name, None)) is not None:
            self._bytes -= self._size(thing)

    def first(self) -> tuple[Name, Thing]:
        """The oldest."""
        return next(iter(self._things.items()))

    def take(self) -> tuple[Name, Thing]:
        """The oldest, which goes."""
        name, thing = self._things.popitem(last=False)
        self._bytes -= self._size(thing)
        return name, thing
