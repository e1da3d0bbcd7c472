"""Word from PostgreSQL of what others did, as it comes."""

import selectors

import psycopg2

from astrodetect.db.connections import Connection, as_database_error, execute_within


class Listener:
    """Hears what is told on a channel while it wants to; for one thread, which owns the bounded connection."""

    def __init__(self, connection: Connection, channel: str, want: str, enough: str, *, within_s: float) -> None:
        self._connection, self._within_s = connection, within_s
        self._want, self._enough = want, enough  # statements that say so to those who tell
        try:
            self._ask(f'LISTEN "{channel}"; SELECT 1')
        except BaseException:
            connection.close()
            raise

    def want(self) -> None:
        """Is told from now on; what was told of before can be looked up."""
        self._ask(self._want)
        self._connection.notifies.clear()

    def enough(self) -> None:
        """Is told no more."""
        self._ask(self._enough)

    def wait(self, timeout_s: float) -> bool:
        """Whether anything was told within this time; DatabaseUnavailable when the server has gone."""
        try:
            if not self._connection.notifies:
                with selectors.DefaultSelector() as selector:  # select.select knows no descriptor above 1023
                    selector.register(self._connection, selectors.EVENT_READ)
                    selector.select(timeout_s)
                self._connection.poll()
        except psycopg2.Error as error:
            raise as_database_error(error) from error
        told = bool(self._connection.notifies)
        self._connection.notifies.clear()
        return told

    def close(self) -> None:
        """Hears no more."""
        self._connection.close()

    def _ask(self, statement: str) -> None:
        try:
            execute_within(self._connection, statement, {}, within_s=self._within_s)
        except psycopg2.Error as error:
            raise as_database_error(error) from error
