"""The frames between processes: the only place that knows their bytes.

A frame on the stream is a 4-byte little-endian length and that many bytes of msgpack: an array whose
first element is the frame's kind. Tensor bytes travel inline. Nothing is ever unpickled.

Two conversations use them. Front end and engine, over the engine's Unix socket: `Infer` and `Cancel` one
way, `Result` and `Failure` the other. Supervisor and child, over the child's control socket: `Generation`,
`Failed`, `Retire`, `Waiting`, `Reloading`, `Optimized` and `Drain` to the child, `Ready` from an engine, `Listening`
and `Reload` from a front end, `Optimized` from a compiler. The end of either stream is the news that the other side is
gone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from service.loader.report import Report, Tuned, Tuning, Verdict

_LENGTH = struct.Struct("<I")
#: msgpack's "bin 8" of length 0, and the head of its "bin 32" (https://github.com/msgpack/msgpack/blob/master/spec.md).
_NO_BYTES, _MANY_BYTES = b"\xc4\x00", struct.Struct(">BI")

#: So many bytes are received at once: requests that arrived together are queued together, as are those that were left
#: at once, and make one batch. A frame that is longer gets memory of its own.
SHARED_BYTES = 1 << 18
#: Of a frame that says it is larger, memory is taken as it comes.
BELIEVED_BYTES = 1 << 23
#: No frame is longer: a length beyond it is a broken stream, not a large request (bytes).
MAX_FRAME_BYTES = 1 << 28


class BrokenStreamError(Exception):
    """The bytes are no frames: wrong length, no msgpack, or an unknown kind."""


class Frame(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """One message. Subclasses are the whole vocabulary."""


class Infer(Frame, frozen=True):
    """Run `count` examples through a model.

    `pixels` is `(count, 3, H, W) uint8`, C order, in one dimension: a view, since copies of it are what a frame costs.
    `deadline` is CLOCK_MONOTONIC seconds, the same clock in
    every process of the machine. `alone` asks for a batch with nobody else in it.
    """

    id: int
    model: str
    count: int
    top_k: int
    deadline: float
    alone: bool
    pixels: memoryview


class Cancel(Frame, frozen=True):
    """Nobody waits for this request any more."""

    id: int


class Result(Frame, frozen=True):
    """The answer to an `Infer`: `probabilities` is `(count, k) float32`, `ids` is `(count, k) int32`.

    `queue_seconds` is the wait of the request's last example, `forward_seconds` the time its batches took.
    `backlog_seconds` is how long what now waits in the engine for this model, of all front ends, will take;
    `example_seconds` what one more example adds to it.
    """

    id: int
    k: int
    probabilities: bytes
    ids: bytes
    queue_seconds: float
    forward_seconds: float
    backlog_seconds: float
    example_seconds: float


class Failure(Frame, frozen=True):
    """No answer: `error` is the name of a refusal in `service.errors`."""

    id: int
    error: str
    detail: str


class ModelState(msgspec.Struct, frozen=True):
    """What a front end needs to know of one model in one generation, and what `/models/{m}` shows.

    `state` is `loading`, `ready` or `failed`; `detail` says why it failed. `input` is the card's, resolved.
    `report` is the proof's, of a model that got that far; `verdict` says whether a compiled package answers for it.
    `cuda_graphs` are the batch sizes whose kernels a GPU is given at once.
    """

    name: str
    state: str
    required: bool = True
    detail: str = ""
    version: str = ""
    seal: str = ""
    task: str = "classification"
    input: dict[str, Any] = {}
    labels: list[str] = []
    batch_sizes: list[int] = []
    tuning: Tuning | None = None
    tuned: Tuned | None = None
    cuda_graphs: list[int] = []
    example_seconds: float = 0.0
    memory_bytes: dict[str, int] = {}
    card: dict[str, Any] = {}
    report: Report | None = None
    verdict: Verdict | None = None


class Ready(Frame, frozen=True):
    """An engine has loaded and checked every model of its folder, and listens."""

    device: str
    models: list[ModelState]


class Generation(Frame, frozen=True):
    """Turn to this engine for `device`: its socket, what it serves, and which model `/predict` goes to."""

    device: str
    number: int
    socket: str
    models: list[ModelState]
    default_model: str = ""


class Retire(Frame, frozen=True):
    """Send this engine nothing more: its successor starts when it has finished and ended."""

    device: str
    number: int


class Waiting(Frame, frozen=True):
    """Why `device` has no engine: `detail` says what is being waited for, since `since` (CLOCK_MONOTONIC seconds)."""

    device: str
    detail: str
    since: float


class Listening(Frame, frozen=True):
    """A front end accepts connections."""


class Reload(Frame, frozen=True):
    """An operator asks: read the model folders again, and serve what they hold now."""


class Reloading(Frame, frozen=True):
    """How reloads stand: whether one runs, how many have ended, and why the last one changed nothing, if so."""

    running: bool
    ended: int
    error: str


class Failed(Frame, frozen=True):
    """An engine died. `aboard` are the ids that were in its forward.

    `cause` is a signal's name, `violation` or `seal-broken` where it caught its model, or `exit N`.
    """

    device: str
    number: int
    cause: str
    aboard: list[int]


class Optimized(Frame, frozen=True):
    """What came of compiling a model, behind serving. The generation that serves it now runs as it did."""

    model: str
    version: str
    verdict: Verdict


class Drain(Frame, frozen=True):
    """Finish what is accepted and end. The front end goes on answering for `delay_seconds` first."""

    delay_seconds: float
    limit_seconds: float


AnyFrame = (
    Infer
    | Cancel
    | Result
    | Failure
    | Ready
    | Generation
    | Retire
    | Waiting
    | Listening
    | Reload
    | Reloading
    | Failed
    | Optimized
    | Drain
)

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
        """Where the next bytes go; never empty."""
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
            self._own = self._own + bytes(more)  # a new one: who received into the old one may still hold it

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
        """What has come of a frame of so many bytes goes to the beginning of where the rest of it will go."""
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
