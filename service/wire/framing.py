"""Frames on a stream: the only place that knows their bytes.

A frame is two 4-byte little-endian lengths, a header and raw bytes, of those lengths. The header is msgpack: an array
whose first element is the frame's kind. The raw bytes are the tensors of an `Infer` or a `Result`; other frames have
none. Nothing is ever unpickled.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import cast

import msgspec

from service.wire.messages import AnyFrame, Buffer, Frame, Infer, Result

_LENGTHS = struct.Struct("<II")

#: Bytes received at once: requests that arrive together, or are abandoned together, are then queued together and make
#: one batch. A frame that is longer gets memory of its own.
SHARED_BYTES = 1 << 18
#: For a frame that claims to be larger than this, memory is allocated as bytes arrive.
BELIEVED_BYTES = 1 << 23
#: No frame is longer: a length beyond it is a broken stream, not a large request (bytes).
MAX_FRAME_BYTES = 1 << 28
#: The most bytes of the tensors of one frame; its header and what stands between tensors take the rest.
MOST_TENSOR_BYTES = MAX_FRAME_BYTES - (1 << 20)


class BrokenStreamError(Exception):
    """The bytes are not frames: a wrong length, invalid msgpack, or an unknown kind."""


#: In a header, None stands where the tensors were.
_encoder = msgspec.msgpack.Encoder(enc_hook=lambda tensors: None)
_decoder: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame, dec_hook=lambda kind, none: kind())


def pieces(*frames: Frame) -> list[Buffer]:
    """The bytes of frames; tensors are pieces of their own, not copied."""
    found: list[Buffer] = []
    for frame in frames:
        header = _encoder.encode(frame)
        if isinstance(frame, Infer | Result):
            found += (_LENGTHS.pack(len(header), frame.tensors.nbytes) + header, *frame.tensors.pieces)
        else:
            found.append(_LENGTHS.pack(len(header), 0) + header)
    return found


class FrameReader:
    """Turns a stream, split anywhere, back into frames.

    Small frames are received together. A large one is received in memory of its own, where its tensors then stay.
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
            whole, self._own, self._filled = memoryview(self._own), None, 0
            yield _decode(whole)
        elif self._filled == len(self._own):
            more = min(self._size, 2 * self._filled) - self._filled
            self._own = self._own + bytes(more)  # a new one: the receiver may still hold the old one

    def _small_frames(self) -> Iterator[AnyFrame]:
        start = size = 0
        with memoryview(self._shared) as there:
            try:
                while self._filled - start >= _LENGTHS.size:
                    size = _LENGTHS.size + sum(_LENGTHS.unpack_from(there, start))
                    if size > MAX_FRAME_BYTES:
                        raise BrokenStreamError(f"a frame of {size} bytes; the most is {MAX_FRAME_BYTES}")
                    if self._filled - start < size:
                        break
                    start, whole = start + size, memoryview(bytes(there[start : start + size]))
                    yield _decode(whole)
            finally:
                self._keep(bytes(there[start : self._filled]), size)

    def _keep(self, begun: bytes, size: int) -> None:
        """Move the beginning of a frame of `size` bytes to where the rest of it will be received."""
        if len(begun) >= _LENGTHS.size and size > len(self._shared):
            self._own, self._size = bytearray(min(size, BELIEVED_BYTES)), size
        into = self._shared if self._own is None else self._own
        self._filled = len(begun)
        into[: self._filled] = begun


def _decode(whole: memoryview) -> AnyFrame:
    begin = _LENGTHS.size + int.from_bytes(whole[:4], "little")
    try:
        frame = _decoder.decode(whole[_LENGTHS.size : begin])
    except msgspec.MsgspecError as error:
        raise BrokenStreamError(f"not a frame: {error}") from error
    if isinstance(frame, Infer | Result):
        frame.tensors.pieces = (whole[begin:],)
    return frame


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
