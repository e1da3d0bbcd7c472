"""What the processes of the service share in the database: leases on work and images, and the maps."""

import datetime as dt
import json
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from astrodetect.db.connections import Parameters, Row

MAX_MAPS = 8  # of as many embedding spaces

Execute = Callable[[str, Parameters], list[Row]]


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that has not expired; `running` is False where its work has ended, which `state` describes."""

    running: bool
    state: Mapping[str, Any]


class LeaseTable:
    """The table `leases`, part of `database.Database`; times are by the clock of the database."""

    def __init__(self, execute: Execute, statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def take(self, name: str, holder: str, *, seconds: float, state: Mapping[str, Any] | None = None) -> bool:
        """Take or renew a lease; False where another holder has it."""
        return bool(self.take_many([name], holder, seconds=seconds, state=state))

    def take_many(
        self, names: Collection[str], holder: str, *, seconds: float, state: Mapping[str, Any] | None = None
    ) -> AbstractSet[str]:
        """Take or renew leases; the names of those that no other holder has."""
        values = {"names": sorted({*names}), "holder": holder, "seconds": seconds, "state": json.dumps(state or {})}
        return {row["name"] for row in self._execute(self._sql["take_leases"], values)}

    def end(self, name: str, holder: str, *, seconds: float = 0.0, state: Mapping[str, Any] | None = None) -> None:
        """End a lease, so that others can take it, and leave its last state for so long."""
        values = {"name": name, "holder": holder, "seconds": seconds, "state": json.dumps(state or {})}
        self._execute(self._sql["end_lease"], values)

    def read(self, name: str) -> Lease | None:
        """The lease of this name, unless it has expired."""
        rows = self._execute(self._sql["lease"], {"name": name})
        return Lease(**rows[0]) if rows else None

    def held_by_others(self, names: Collection[str], holder: str) -> AbstractSet[str]:
        """Which of these leases other holders have."""
        if not names:
            return frozenset()
        rows = self._execute(self._sql["leased_by_others"], {"names": list(names), "holder": holder})
        return {row["name"] for row in rows}

    def release_others(self, holder: str, names: Collection[str]) -> None:
        """Release all leases of a holder but these."""
        self._execute(self._sql["release_leases"], {"holder": holder, "except": list(names)})


class MapTable:
    """The table `maps`, part of `database.Database`."""

    def __init__(self, execute: Execute, statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def drawn(self, space: str, *, preliminary: bool) -> dt.datetime | None:
        """When the map of this space was drawn; None where there is none."""
        rows = self._execute(self._sql["map_drawn"], {"space": space, "preliminary": preliminary})
        return rows[0]["drawn"] if rows else None

    def read(self, space: str, *, preliminary: bool) -> bytes | None:
        """The stored map of this space."""
        rows = self._execute(self._sql["read_map"], {"space": space, "preliminary": preliminary})
        return bytes(rows[0]["content"]) if rows else None

    def save(self, space: str, content: bytes, drawn: dt.datetime, *, preliminary: bool) -> None:
        """Store a map in place of the earlier one; those of the most recent MAX_MAPS spaces are kept."""
        values = {"space": space, "preliminary": preliminary, "drawn": drawn, "content": content}
        self._execute(self._sql["save_map"], values | {"others": MAX_MAPS - 1})

    def delete_preliminary(self, space: str) -> None:
        """Delete the preliminary map of a space."""
        self._execute(self._sql["delete_preliminary_map"], {"space": space})
