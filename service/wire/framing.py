"""Frames on a stream: the only place that knows their bytes.

A frame is a 4-byte little-endian length and that many bytes of msgpack: an array whose first element is the frame's
kind. Tensor bytes travel inline. Nothing is ever unpickled.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import cast

import msgspec

from service.wire.messages import AnyFrame, Frame, Infer

_LENGTH = struct.Struct("<I")
#: msgpack's "bin 8" of length 0, and the head of its "bin 32" (https://github.com/msgpack/msgpack/blob/master/spec.md).
_NO_BYTES, _MANY_BYTES = b"\xc4\x00", struct.Struct(">BI")

#: Bytes received at once: requests that arrive together, or are abandoned together, are then queued together and make
#: one batch. A frame that is longer gets memory of its own.
SHARED_BYTES = 1 << 18
#: For a frame that claims to be larger than this, memory is allocated as bytes arrive.
BELIEVED_BYTES = 1 << 23
#: No frame is longer: a length beyond it is a broken stream, not a large request (bytes).
MAX_FRAME_BYTES = 1 << 28


class BrokenStreamError(Exception):
    """The bytes are not frames: a wrong length, invalid msgpack, or an unknown kind."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame)


def pieces(*frames: Frame) -> list[bytes | memoryview]:
    """The bytes of frames, of which an `Infer`'s pixels are a piece of their own, not copied."""
    return [piece for frame in frames for piece in _pieces(frame)]


def _pieces(frame: Frame) -> list[bytes | memoryview]:
    if not isinstance(frame, Infer):
        body = _encoder.encode(frame)
        return [_LENGTH.pack(len(body)) + body]
    # As the encoder would write the frame, but for the last field, of which it writes here that it is empty.
    fields = ("Infer", frame.id, frame.model, frame.count, frame.top_k, frame.deadline, frame.alone, b"")
    head = _encoder.encode(fields)[: -len(_NO_BYTES)] + _MANY_BYTES.pack(0xC6, len(frame.pixels))
    return [_LENGTH.pack(len(head) + len(frame.pixels)) + head, frame.pixels]


class FrameReader:
    """Turns a stream, split anywhere, back into frames.

    Small frames are received together. A large one is received in memory of its own, which its pixels then are.
    """

    def __init__(self) -> None:
        self._shared = bytearray(SHARED_BYTES)
        self._own: bytearray | None = None
        self._size = 0
        self._filled = 0

    def room(self) -> memoryview:
        """Return the memory for the next bytes; never empty."""
        return memoryview(self._shared if self._own is None else self._own)[self._filled :]

    def received(self, count: int) -> Iterator[AnyFrame]:
        """Yield the frames that the first `count` bytes of the room complete.

        Raises:
            BrokenStreamError: the stream cannot be read any further.
        """
        self._filled += count
        if self._own is None:
            yield from self._small_frames()
        elif self._filled == self._size:
            body, self._own, self._filled = memoryview(self._own)[_LENGTH.size :], None, 0
            yield _decode(body)
        elif self._filled == len(self._own):
            more = min(self._size, 2 * self._filled) - self._filled
            self._own = self._own + bytes(more)  # a new one: the receiver may still hold the old one

    def _small_frames(self) -> Iterator[AnyFrame]:
        start, length = 0, 0
        with memoryview(self._shared) as there:
            try:
                while self._filled - start >= _LENGTH.size:
                    (length,) = _LENGTH.unpack_from(there, start)
                    if length > MAX_FRAME_BYTES:
                        raise BrokenStreamError(f"a frame of {length} bytes; the most is {MAX_FRAME_BYTES}")
                    begin, end = start + _LENGTH.size, start + _LENGTH.size + length
                    if self._filled < end:
                        break
                    start, body = end, memoryview(bytes(there[begin:end]))
                    yield _decode(body)
            finally:
                self._keep(bytes(there[start : self._filled]), _LENGTH.size + length)

    def _keep(self, begun: bytes, size: int) -> None:
        """Move the beginning of a frame of `size` bytes to where the rest of it will be received."""
        if len(begun) >= _LENGTH.size and size > len(self._shared):
            self._own, self._size = bytearray(min(size, BELIEVED_BYTES)), size
        into = self._shared if self._own is None else self._own
        self._filled = len(begun)
        into[: self._filled] = begun


def _decode(body: memoryview) -> AnyFrame:
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BrokenStreamError(f"not a frame: {error}") from error


class FrameProtocol(asyncio.BufferedProtocol):
    """An asyncio connection that speaks frames; what they mean is the subclass's business."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._reader = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.room()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for frame in self._reader.received(nbytes):
                self.frame_received(frame)
        except BrokenStreamError:
            self.transport.abort()

    def frame_received(self, frame: AnyFrame) -> None:
        raise NotImplementedError

    def send(self, *frames: Frame) -> None:
        """Queue frames as one write; a connection that is closing drops them, and its end tells both sides."""
        if not self.transport.is_closing():
            self.transport.writelines(pieces(*frames))
