"""A listener that is about to close: whoever comes now is not let in, and nobody who was is reset."""

from __future__ import annotations

import contextlib
import ctypes
import socket

#: Seconds that a handshake has to end; then the listener can close and leave nobody in its backlog.
HANDSHAKE_SECONDS = 0.25

_SO_ATTACH_FILTER = 26
_TCP_FLAGS_OFFSET, _SYN = 13, 0x02
_LOAD_BYTE, _JUMP_IF_SET, _RETURN = 0x30, 0x45, 0x06


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def turn_away(listener: socket.socket) -> None:
    """Drop what would begin a connection; handshakes that have begun go on to their end.

    Between the last `accept()` and `close()` the kernel goes on shaking hands, and resets at `close()` whomever it
    has let in. A client whose SYN is dropped sends another after a second, and is then refused by the closed port,
    or let in by the server's successor. Linux's socket filter (socket(7), SO_ATTACH_FILTER: classic BPF, of which the
    first byte is that of the TCP header) does that without a privilege; where there is none, the gap of
    microseconds stays.
    """
    program = (_Instruction * 4)(
        _Instruction(_LOAD_BYTE, 0, 0, _TCP_FLAGS_OFFSET),
        _Instruction(_JUMP_IF_SET, 0, 1, _SYN),
        _Instruction(_RETURN, 0, 0, 0),
        _Instruction(_RETURN, 0, 0, 0xFFFFFFFF),
    )
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(_Program(4, program)))
