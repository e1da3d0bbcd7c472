"""The listening sockets and the connections of a uvicorn server at its shutdown."""

import asyncio
import os
import selectors
import signal
import socket
import struct
import sys
from ctypes import addressof, create_string_buffer

from uvicorn import Server

GRACE_S = 0.5  # at shutdown: connections are still accepted, and an idle one may still send a request

SO_ATTACH_FILTER = 26  # of Linux, which Python does not name
TCP_FLAGS_BYTE, SYN_AND_ACK, SYN = 13, 0x12, 0x02
DROP_SYN = (  # a classic BPF program on a TCP segment: code, jump if true, jump if false, constant
    (0x30, 0, 0, TCP_FLAGS_BYTE),  # load the byte
    (0x54, 0, 0, SYN_AND_ACK),
    (0x15, 0, 1, SYN),  # a SYN without ACK begins a connection
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # accept any other segment
)


def running_server() -> Server | None:
    """The uvicorn server that handles the signals of this process."""
    server = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return server if isinstance(server, Server) else None


async def stop_listening(server: Server) -> None:
    """Closes the listening sockets once nothing waits in them: the system resets the connections that do.

    Where no other process has the sockets, Linux is told to ignore new connections meanwhile, whose clients repeat
    their SYN a second later and are then refused; what is already being established is still accepted.
    """
    for connection in list(server.server_state.connections):
        connection.shutdown()
    sockets = [duplicate(listener.fileno()) for listening in server.servers for listener in listening.sockets]
    try:
        if not server.config.use_subprocess and server.config.fd is None:
            for listener in sockets:
                ignore_new_connections(listener)
        await asyncio.sleep(GRACE_S)
        while any(is_readable(listener.fileno()) for listener in sockets):
            await asyncio.sleep(0)
        for listening in server.servers:
            listening.close()
    finally:
        for listener in sockets:
            listener.close()


async def end_connections(server: Server) -> None:
    """Cancels what is in progress, which is answered by an error, and closes all connections."""
    if tasks := list(server.server_state.tasks):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=GRACE_S)
    for connection in list(server.server_state.connections):
        connection.transport.abort()


def duplicate(descriptor: int) -> socket.socket:
    """A socket object for the same socket."""
    return socket.socket(fileno=os.dup(descriptor))


def ignore_new_connections(listener: socket.socket) -> None:
    """Has Linux drop the first segment of new TCP connections; does nothing elsewhere."""
    if sys.platform != "linux" or listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    program = create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in DROP_SYN))
    filter_program = struct.pack("HL", len(DROP_SYN), addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_program)
    except OSError:  # not every kernel has it
        return


def is_readable(descriptor: int) -> bool:
    """Whether bytes or a connection wait in a socket."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))
