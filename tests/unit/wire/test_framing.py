"""Frames survive any split of the stream; broken ones end it."""

import asyncio
import contextlib
import itertools
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loader.report import Figures, Report, RuleResult
from service.signature import ITEM_BYTES, Signature, TensorSpec
from service.wire import framing, messages
from service.wire.framing import BrokenStreamError, FrameReader
from service.wire.messages import Tensors

#: Bytes of a frame's two lengths.
LENGTHS = 8


def encode(frame):
    return b"".join(framing.pieces(frame))


def lengths(header, tensors):
    return struct.pack("<II", header, tensors)


def infer(*blocks):
    return messages.Infer(2, "m", 1, 1.5, False, Tensors(*blocks))


texts = st.text(max_size=30)
numbers = st.integers(0, 2**63 - 1)
floats = st.floats(allow_nan=False)
rules = st.builds(RuleResult, rule=texts, passed=st.booleans(), detail=texts, waived=texts)
figures = st.builds(
    Figures,
    graph_nodes=numbers,
    largest_difference=floats,
    contrast=floats,
    tolerance=floats,
    saved_tensors=numbers,
    saved_bytes=numbers,
    sizes=st.lists(st.integers(1, 64)),
    batch_seconds=st.dictionaries(st.integers(1, 64), floats),
    forwards=numbers,
    seconds=floats,
)
reports = st.builds(Report, rules=st.lists(rules, max_size=3), figures=figures, made=texts, full=st.none() | figures)
specs = st.builds(
    TensorSpec,
    name=texts,
    dtype=st.sampled_from(sorted(ITEM_BYTES)),
    shape=st.lists(st.integers(1, 9), max_size=8).map(tuple),
    batch_axis=st.integers(0, 8),
    range=st.none() | st.tuples(floats, floats),
    finite=st.booleans(),
)
signatures = st.builds(
    Signature, inputs=st.lists(specs, max_size=3).map(tuple), outputs=st.lists(specs, max_size=3).map(tuple)
)
states = st.builds(
    messages.ModelState,
    name=texts,
    state=st.sampled_from(["loading", "ready", "failed"]),
    task=texts,
    signature=signatures,
    decoded_for=texts,
    answer=st.dictionaries(texts, st.lists(texts, max_size=3), max_size=2),
    report=st.none() | reports,
)
#: One piece, several, none, and empty ones; what is received is in one piece.
tensors = st.lists(st.binary(max_size=300), max_size=4).map(lambda blocks: Tensors(*blocks))
laid_out = st.lists(st.binary(max_size=300), max_size=4).map(lambda blocks: Tensors.of(*map(memoryview, blocks)))
frames = st.one_of(
    st.builds(
        messages.Infer,
        id=numbers,
        model=texts,
        count=st.integers(1, 64),
        deadline=floats,
        alone=st.booleans(),
        tensors=tensors | laid_out,
    ),
    st.builds(messages.Cancel, id=numbers),
    st.builds(
        messages.Result,
        id=numbers,
        tensors=tensors | laid_out,
        queue_seconds=floats,
        forward_seconds=floats,
        backlog_seconds=floats,
        example_seconds=floats,
    ),
    st.builds(messages.Failure, id=numbers, error=texts, detail=texts),
    st.builds(messages.Ready, device=texts, models=st.lists(states, max_size=2)),
    st.builds(messages.Generation, device=texts, number=numbers, socket=texts, models=st.lists(states, max_size=2)),
    st.builds(messages.EngineDied, device=texts, number=numbers, cause=texts, aboard=st.lists(numbers, max_size=5)),
    st.builds(messages.Retire, device=texts, number=numbers),
    st.builds(messages.Waiting, device=texts, detail=texts, since=floats),
    st.builds(messages.Reload),
    st.builds(messages.Reloading, running=st.booleans(), ended=numbers, error=texts),
    st.builds(messages.Drain, delay_seconds=floats, limit_seconds=floats),
)


def feed(reader, data):
    """The frames that these bytes complete, received in as many steps as the reader has room for at a time."""
    while data:
        room = reader.room()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        room.release()
        data = data[count:]
        yield from reader.received(count)


@given(frames)
def test_a_frame_comes_back_as_it_was(frame):
    assert list(feed(FrameReader(), encode(frame))) == [frame]


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 5000), max_size=12))
def test_any_split_of_the_stream_gives_the_same_frames(sent, cuts):
    stream = b"".join(map(encode, sent))
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reader = FrameReader()
    received = [frame for start, stop in itertools.pairwise(places) for frame in feed(reader, stream[start:stop])]
    assert received == sent


def test_a_stream_split_at_every_byte_gives_the_frame_with_its_last_byte():
    frame = messages.Cancel(7)
    stream = encode(frame)
    reader = FrameReader()
    received = [list(feed(reader, stream[n : n + 1])) for n in range(len(stream))]
    assert received == [*([[]] * (len(stream) - 1)), [frame]]


@pytest.mark.parametrize("size", [1, framing.SHARED_BYTES, 2 * framing.SHARED_BYTES, 3 * framing.BELIEVED_BYTES])
def test_a_frame_of_any_size_between_small_ones_comes_back_and_its_tensors_stay(size):
    block = bytes(range(256)) * (size // 256 + 1)
    sent = [messages.Cancel(1), infer(block, block[7:]), messages.Cancel(3)]
    reader = FrameReader()
    received = [*feed(reader, b"".join(map(encode, sent))), *feed(reader, b"".join(map(encode, sent)))]
    assert received == sent * 2


@pytest.mark.parametrize("kind", [messages.Infer, messages.Result])
def test_the_tensors_of_a_large_frame_are_where_they_were_received(kind):
    block = Tensors(bytes(2 * framing.SHARED_BYTES))
    sent = infer(*block.pieces) if kind is messages.Infer else messages.Result(1, block, 0.0, 0.0, 0.0, 0.0)
    reader = FrameReader()
    stream = encode(sent)
    assert list(feed(reader, stream[:-1])) == []
    room = reader.room()
    assert len(room) == 1
    room[0] = 77
    (frame,) = reader.received(1)
    room[0] = 78
    assert frame.tensors.data[-1] == 78


@pytest.mark.parametrize("end", [0, 40])
def test_tensors_of_a_small_frame_are_not_where_the_next_one_is_received(end):
    reader = FrameReader()
    stream = encode(infer(b"first"))
    first, *_ = feed(reader, stream + stream[:end])
    list(feed(reader, encode(infer(b"other"))[end:]))
    assert bytes(first.tensors.data) == b"first"


def test_memory_is_not_taken_on_a_stream_s_word():
    reader = FrameReader()
    assert list(feed(reader, lengths(framing.MAX_FRAME_BYTES - LENGTHS, 0))) == []
    assert len(reader.room()) <= framing.BELIEVED_BYTES


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_broken_stream(data):
    with contextlib.suppress(BrokenStreamError):
        for frame in feed(FrameReader(), data):
            assert isinstance(frame, messages.Frame)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", msgspec.msgpack.encode(["NoSuchFrame", 1]), msgspec.msgpack.encode(["Cancel", "seven"])],
    ids=["empty", "no msgpack", "unknown kind", "wrong type"],
)
def test_a_body_that_is_no_frame_is_a_broken_stream(body):
    with pytest.raises(BrokenStreamError):
        list(feed(FrameReader(), lengths(len(body), 0) + body))


@pytest.mark.parametrize("header", [0, 1, framing.MAX_FRAME_BYTES - LENGTHS, 2**32 - 1])
def test_lengths_beyond_the_most_are_refused_before_anything_is_buffered(header):
    too_much = framing.MAX_FRAME_BYTES - LENGTHS - header + 1
    with pytest.raises(BrokenStreamError, match="the most is"):
        list(feed(FrameReader(), lengths(header, max(0, too_much))))


def test_frames_before_a_broken_one_are_still_delivered():
    frames = feed(FrameReader(), encode(messages.Cancel(1)) + lengths(1, 0) + b"\xc1")
    assert next(frames) == messages.Cancel(1)
    with pytest.raises(BrokenStreamError):
        next(frames)


def test_a_connection_that_receives_no_frames_is_cut():
    class Listening(framing.FrameProtocol):
        def frame_received(self, frame):
            raise AssertionError("there was no frame")

    async def scene():
        import socket

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(Listening, sock=theirs)
        with ours:
            await loop.sock_sendall(ours, lengths(1, 0) + b"\xc1")
            return await asyncio.wait_for(loop.sock_recv(ours, 1), 5)

    assert asyncio.run(scene()) == b""


def test_tensors_are_handed_to_the_socket_and_not_copied():
    block = bytearray(100)
    *_, sent = framing.pieces(messages.Cancel(1), infer(memoryview(block)))
    block[-1] = 7
    assert bytes(sent) == bytes(block)
    assert len(framing.pieces(infer(block, block), messages.Cancel(1))) == 4


def test_bytes_behind_a_frame_that_has_no_tensors_are_not_another_frame():
    """Else whoever forges lengths has a frame of their own read out of what they send."""
    header = encode(messages.Cancel(1))[LENGTHS:]
    hidden = encode(messages.Cancel(2))
    stream = lengths(len(header), len(hidden)) + header + hidden + encode(messages.Cancel(3))
    assert list(feed(FrameReader(), stream)) == [messages.Cancel(1), messages.Cancel(3)]
