"""EngineClient against engines that do exactly what a test says, over real Unix sockets."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.errors import (
    DeadlineExceeded,
    Draining,
    InputCrashesModel,
    ModelFailed,
    ModelNotFound,
    NotReady,
    NotReplayed,
    Overloaded,
)
from service.frontend.engines.blame import KILLS_FOR_A_STRIKE
from service.frontend.engines.client import EngineClient, InputChangedError
from service.frontend.engines.connection import EngineConnection
from service.frontend.engines.fleet import CONNECT_AGAIN_SECONDS
from service.frontend.engines.known import Known
from service.frontend.engines.places import Places
from service.host.metric_memory import make_metric_memory
from service.loader.report import Figures, Report, RuleResult
from service.metrics import Metrics
from service.wire.framing import FrameProtocol
from service.wire.messages import (
    Cancel,
    EngineDied,
    Failure,
    Generation,
    Infer,
    ModelState,
    Result,
    Retire,
    Tensors,
    Wanted,
)

ARRAYS = (np.zeros((1, 3, 4, 4), np.uint8),)
LIMIT = 10.0
NOT_REPEATABLE = Report(
    [RuleResult("repeatable", False, "It differs.", waived="dropout on purpose")],
    Figures(0, 0, 0, 0.0, 0.0, 0.0, [1], {1: 0.1}, 8, 0.0),
    "today",
)


class Engine:
    """One generation that takes frames and says nothing until told to."""

    def __init__(
        self, number: int, device: str = "cpu", state: str = "ready", report: Report | None = None, **more
    ) -> None:
        self.report = report
        self.more = more
        self.backlog = 0.0
        self.number, self.device, self.state = number, device, state
        self.frames: list[Infer | Cancel] = []
        self.connection: FrameProtocol | None = None
        self.ended = asyncio.Event()
        self._changed = asyncio.Condition()

    async def listen(self, folder) -> Generation:
        engine = self

        class Connection(FrameProtocol):
            def connection_made(self, transport):
                super().connection_made(transport)
                engine.connection = self

            def frame_received(self, frame):
                engine.frames.append(frame)

            def connection_lost(self, exc):
                engine.ended.set()

        path = str(folder / f"{self.device}-{self.number}.sock")
        self.server = await asyncio.get_running_loop().create_unix_server(Connection, path)
        models = [
            ModelState(
                "m",
                self.state,
                version=f"v{self.number}",
                detail="its weights are gone",
                report=self.report,
                example_seconds=0.5,
                **self.more,
            )
        ]
        return Generation(self.device, self.number, path, models)

    async def infers(self, count: int) -> list[Infer]:
        await until(lambda: len([f for f in self.frames if isinstance(f, Infer)]) >= count)
        return [frame for frame in self.frames if isinstance(frame, Infer)]

    def answer(self, frame: Infer) -> None:
        self.connection.send(Result(frame.id, Tensors(bytes(8)), 0.0, 0.0, self.backlog, 0.5))

    def die(self) -> None:
        self.server.close()
        self.connection.transport.abort()


async def until(condition) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0)


class Scene:
    """A client, and the engines it turns to."""

    def __init__(self, folder, places: int = 8, most_bytes: int = 1 << 30) -> None:
        self.folder = folder
        known = Known("", {})
        self.client = EngineClient(3, known, Places(places, most_bytes), Metrics("frontend-0", make_metric_memory()))
        self.engines: list[Engine] = []

    async def engine(self, **more) -> Engine:
        engine = Engine(len(self.engines) + 1, **more)
        self.engines.append(engine)
        await self.client.fleet.connect(await engine.listen(self.folder))
        await until(lambda: engine.connection is not None)
        return engine

    async def ready(self, engine: Engine, **more) -> None:
        """The engine says that its model is ready."""
        models = [ModelState("m", "ready", version=f"v{engine.number}", **more)]
        path = str(self.folder / f"{engine.device}-{engine.number}.sock")
        await self.client.fleet.connect(Generation(engine.device, engine.number, path, models))

    def ask(self, seconds: float = LIMIT, decoded_for: str = "", arrays=ARRAYS) -> asyncio.Task:
        state = ModelState("m", "ready", decoded_for=decoded_for)
        return asyncio.ensure_future(self.client.infer(state, len(arrays[0]), arrays, time.monotonic() + seconds))

    async def end(self, engine: Engine, cause: str, *aboard: int) -> None:
        engine.die()
        await until(lambda: ("cpu", engine.number) not in [e.key for e in self.client.fleet._engines.values()])
        self.client.fleet.failed(EngineDied("cpu", engine.number, cause, list(aboard)))


@pytest.fixture
def play(tmp_path):
    """Runs a scene, and closes what it opened."""

    @asynccontextmanager
    async def opened(**more):
        scene = Scene(tmp_path, **more)
        try:
            yield scene
        finally:
            for engine in scene.engines:
                engine.server.close()
                if engine.connection:
                    engine.connection.transport.abort()
            scene.client.fleet.close()
            await asyncio.sleep(0)

    def run(story, **more):
        async def main():
            async with asyncio.timeout(LIMIT), opened(**more) as scene:
                await story(scene)

        asyncio.run(main())

    return run


def test_an_answer_comes_with_the_model_of_the_generation_that_gave_it(play):
    async def story(scene):
        first = await scene.engine()
        asked = scene.ask()
        (frame,) = await first.infers(1)
        second = await scene.engine()
        later = scene.ask()
        (frame2,) = await second.infers(1)
        first.answer(frame)
        second.answer(frame2)
        assert [(await task)[1].version for task in (asked, later)] == ["v1", "v2"]

    play(story)


def test_requests_of_one_turn_of_the_event_loop_leave_together_and_in_order(play):
    async def story(scene):
        engine = await scene.engine()
        (connection,) = scene.client.fleet._engines.values()
        writes: list[int] = []
        write = connection.send
        connection.send = lambda *frames: (writes.append(len(frames)), write(*frames))
        asked = [scene.ask() for _ in range(5)]
        await asyncio.sleep(0)  # all five are sent, and the last one's client leaves at once
        asked[-1].cancel()
        frames = await engine.infers(5)
        await until(lambda: engine.frames[-1] == Cancel(frames[-1].id))
        assert writes in ([5, 1], [6])
        assert [frame.id for frame in frames] == sorted(frame.id for frame in frames)
        for frame in frames[:4]:
            engine.answer(frame)
        await asyncio.gather(*asked[:4])

    play(story)


def test_an_old_generation_is_let_go_when_it_has_answered_all(play):
    async def story(scene):
        first = await scene.engine()
        asked = scene.ask()
        (frame,) = await first.infers(1)
        await scene.engine()
        assert not first.ended.is_set()
        first.answer(frame)
        await asked
        await first.ended.wait()

    play(story)


@pytest.mark.parametrize("news_first", [True, False])
def test_a_dead_engines_requests_go_to_the_next_whichever_news_comes_first(play, news_first):
    async def story(scene):
        first = await scene.engine()
        asked = scene.ask()
        (frame,) = await first.infers(1)
        if news_first:
            scene.client.fleet.failed(EngineDied("cpu", 1, "SIGKILL", []))
            assert not scene.client._orphans  # its stream may still hold the answer
            first.die()
        else:
            await scene.end(first, "SIGKILL")
        await until(lambda: scene.client._orphans)
        second = await scene.engine()
        (again,) = await second.infers(1)
        assert again == frame
        second.answer(again)
        assert (await asked)[1].version == "v2"

    play(story)


def test_a_crash_sends_those_aboard_alone_and_those_who_queued_as_they_were(play):
    async def story(scene):
        first = await scene.engine()
        scene.ask(), scene.ask()
        guilty, queued = await first.infers(2)
        await scene.end(first, "SIGSEGV", guilty.id)
        second = await scene.engine()
        again = {frame.id: frame.alone for frame in await second.infers(2)}
        assert again == {guilty.id: True, queued.id: False}

    play(story)


def test_a_request_to_a_model_that_is_not_repeatable_is_not_sent_again(play):
    async def story(scene):
        first = await scene.engine(report=NOT_REPEATABLE)
        asked = scene.ask()
        await first.infers(1)
        await scene.end(first, "SIGKILL")
        with pytest.raises(NotReplayed, match="may not run a request twice") as caught:
            await asked
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
        assert not scene.client._orphans

    play(story)


def test_who_has_just_given_up_keeps_nobody_else_from_the_news_of_a_death(play):
    async def story(scene):
        engine = await scene.engine(report=NOT_REPEATABLE)
        gone, waits = scene.ask(), scene.ask()
        await engine.infers(2)
        (connection,) = scene.client.fleet._connections.values()
        first, _ = connection.pending.values()
        first.future.cancel()  # and its task has not run since
        connection.failed = EngineDied("cpu", 1, "SIGKILL", [])
        connection.connection_lost(None)
        with pytest.raises(NotReplayed):
            await waits
        with pytest.raises(asyncio.CancelledError):
            await gone

    play(story)


@pytest.mark.parametrize("cause", ["SIGSEGV", "SIGABRT", "watchdog", "violation", "seal-broken", "exit 3"])
def test_a_second_crash_alone_is_the_inputs_fault(play, cause):
    async def story(scene):
        asked = scene.ask()
        for _ in range(2):
            engine = await scene.engine()
            (frame,) = await engine.infers(1)
            await scene.end(engine, cause, frame.id)
        with pytest.raises(InputCrashesModel, match=cause):
            await asked

    play(story)


def test_a_crash_alone_after_a_crash_in_company_of_a_queue_blames_nobody_else(play):
    async def story(scene):
        first = await scene.engine()
        guilty, innocent = scene.ask(), scene.ask()
        one, two = await first.infers(2)
        await scene.end(first, "SIGSEGV", one.id, two.id)
        second = await scene.engine()
        await second.infers(2)
        await scene.end(second, "SIGSEGV", one.id)
        third = await scene.engine()
        (left,) = await third.infers(1)
        third.answer(left)
        assert (await innocent)[1].version == "v3"
        with pytest.raises(InputCrashesModel):
            await guilty

    play(story)


def test_e2b_a_kill_is_nobodys_fault_until_the_fifth(play):
    async def story(scene):
        asked = scene.ask()
        alone = []
        for _ in range(KILLS_FOR_A_STRIKE):
            engine = await scene.engine()
            (frame,) = await engine.infers(1)
            alone.append(frame.alone)
            await scene.end(engine, "SIGKILL", frame.id)
        last = await scene.engine()
        (frame,) = await last.infers(1)
        assert [*alone, frame.alone] == [False] * KILLS_FOR_A_STRIKE + [True]
        last.answer(frame)
        await asked

    play(story)


def test_with_no_engine_a_request_waits_until_its_deadline(play):
    async def story(scene):
        with pytest.raises(DeadlineExceeded):
            await scene.ask(seconds=0.05)
        assert not scene.client._orphans

    play(story)


def test_a_request_past_its_deadline_is_cancelled_in_the_engine(play):
    async def story(scene):
        engine = await scene.engine()
        with pytest.raises(DeadlineExceeded):
            await scene.ask(seconds=0.05)
        await until(lambda: len(engine.frames) == 2)
        asked, cancelled = engine.frames
        assert cancelled == Cancel(asked.id)

    play(story)


def test_a_late_answer_of_a_forgotten_request_is_dropped(play):
    async def story(scene):
        engine = await scene.engine()
        with pytest.raises(DeadlineExceeded):
            await scene.ask(seconds=0.05)
        engine.answer((await engine.infers(1))[0])
        asked = scene.ask()
        engine.answer((await engine.infers(2))[1])
        await asked

    play(story)


def test_an_engines_failure_is_raised_as_the_refusal_it_names(play):
    async def story(scene):
        engine = await scene.engine()
        asked = scene.ask()
        (frame,) = await engine.infers(1)
        engine.connection.send(Failure(frame.id, ModelFailed.name, "it raised"))
        with pytest.raises(ModelFailed, match="it raised"):
            await asked

    play(story)


def test_no_more_examples_are_admitted_than_there_are_places(play):
    async def story(scene):
        with scene.client.admit("m", 5, 0, time.monotonic() + LIMIT):
            with pytest.raises(Overloaded) as refused, scene.client.admit("m", 4, 0, time.monotonic() + LIMIT):
                pass
            assert int(refused.value.headers["Retry-After"]) >= 1
            with scene.client.admit("m", 3, 0, time.monotonic() + LIMIT):
                pass
        with scene.client.admit("m", 8, 0, time.monotonic() + LIMIT):
            pass

    play(story, places=8)


def test_the_arrays_of_a_request_are_sent_in_their_order_each_at_its_place(play):
    async def story(scene):
        engine = await scene.engine()
        ids, weights = np.arange(6, dtype=np.int64).reshape(2, 3), np.array([0.5, 1.5], np.float32)
        asked = scene.ask(arrays=(ids, weights))
        (frame,) = await engine.infers(1)
        assert (frame.count, bytes(frame.tensors.data)) == (2, ids.tobytes() + bytes(16) + weights.tobytes())
        engine.answer(frame)
        result, _ = await asked
        assert result.tensors == Tensors(bytes(8))

    play(story)


def test_no_more_bytes_are_admitted_than_there_is_room_for(play):
    async def story(scene):
        far = time.monotonic() + LIMIT
        with scene.client.admit("m", 1, 60, far):
            with pytest.raises(Overloaded, match="take 60 bytes; the most is 100"), scene.client.admit("m", 1, 41, far):
                pass
            with scene.client.admit("m", 1, 40, far):
                pass
        with scene.client.admit("m", 1, 100, far):
            pass

    play(story, most_bytes=100)


def test_the_engine_with_the_least_to_do_gets_the_next_request(play):
    async def story(scene):
        first, second = await scene.engine(device="cuda:0"), await scene.engine(device="cuda:1")
        asked = [scene.ask() for _ in range(4)]
        one, two = await first.infers(2), await second.infers(2)
        for frame in one:
            first.answer(frame)
        await asyncio.gather(asked[0], asked[2])
        scene.ask(), scene.ask()
        assert len(await first.infers(4)) == 4
        assert len(two) == 2

    play(story)


def test_what_would_come_after_its_deadline_is_refused_and_told_when_to_come_back(play):
    async def story(scene):
        engine = await scene.engine()
        engine.backlog = 60.0
        asked, waiting = scene.ask(), scene.ask()
        first, _ = await engine.infers(2)
        engine.answer(first)
        await asked
        late = scene.client.admit("m", 2, 0, time.monotonic() + 20)
        with pytest.raises(Overloaded, match="An answer would take about 6") as refused, late:
            pass
        assert 45 <= int(refused.value.headers["Retry-After"]) <= 52
        with scene.client.admit("m", 2, 0, time.monotonic() + 100):
            pass
        waiting.cancel()

    play(story)


def test_examples_that_wait_for_another_model_delay_no_request_however_many_one_request_has(play):
    async def story(scene):
        engine = await scene.engine()
        warm = scene.ask()
        (frame,) = await engine.infers(1)
        engine.answer(frame)  # and says that an example takes half a second
        await warm
        far = time.monotonic() + LIMIT
        with scene.client.admit("other", 7, 0, far):
            scene.client.known.models["other"] = ModelState("other", "loading")
            seven = (np.zeros((7, 3, 4, 4), np.uint8),)
            waiting = asyncio.ensure_future(scene.client.infer(ModelState("other", "ready"), 7, seven, far))
            await until(lambda: len(scene.client._orphans) == 1)
            with scene.client.admit("m", 1, 0, time.monotonic() + 0.1):
                pass  # nothing is before it: those seven are for another model, and are not being decoded
            waiting.cancel()

    play(story)


def test_who_asks_an_idle_engine_is_let_in_however_short_the_deadline(play):
    async def story(scene):
        engine = await scene.engine()
        asked = scene.ask()
        (frame,) = await engine.infers(1)
        engine.answer(frame)  # and says that an example takes half a second
        await asked
        with scene.client.admit("m", 8, 0, time.monotonic() + 0.1):
            assert scene.client.places.taken == 8

    play(story)


def test_a_request_goes_to_the_engine_that_will_be_done_first(play):
    async def story(scene):
        slow, fast = await scene.engine(device="cuda:0"), await scene.engine(device="cuda:1")
        slow.backlog = 60.0
        asked = [scene.ask(), scene.ask()]
        for engine in (slow, fast):
            (frame,) = await engine.infers(1)
            engine.answer(frame)
        await asyncio.gather(*asked)
        for _ in range(3):
            scene.ask()
        assert len(await fast.infers(4)) == 4

    play(story)


def test_a_model_that_the_next_engine_cannot_serve_is_refused_with_the_reason(play):
    async def story(scene):
        first = await scene.engine()
        asked = scene.ask()
        await first.infers(1)
        await scene.end(first, "SIGKILL")
        await scene.engine(state="failed")
        with pytest.raises(NotReady, match="weights are gone"):
            await asked

    play(story)


OLD, NEW = "a digest", "another one"


def test_arrays_decoded_for_another_input_never_reach_an_engine_though_their_size_is_the_same(play):
    async def story(scene):
        engine = await scene.engine(decoded_for=NEW)
        with pytest.raises(InputChangedError):
            await scene.ask(decoded_for=OLD)
        scene.ask(decoded_for=NEW)
        assert len(await engine.infers(1)) == 1

    play(story)


def test_a_request_whose_deadline_comes_with_the_next_generation_stops_no_other(play):
    async def story(scene):
        asked = [scene.ask(decoded_for=OLD), scene.ask(decoded_for=OLD)]
        await until(lambda: len(scene.client._orphans) == 2)
        late = next(iter(scene.client._orphans))
        turned, turn = [], scene.client.fleet._all_models
        # In the turn of the loop in which the generation comes: the request's own task has not run since.
        scene.client.fleet._all_models = lambda generation: (turned.append(late.expire()), turn(generation))[1]
        await scene.engine(decoded_for=NEW)
        assert turned
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded, InputChangedError]

    play(story)


def test_a_replayed_request_that_the_next_generation_takes_otherwise_is_handed_back_to_be_decoded_again(play):
    async def story(scene):
        first = await scene.engine(decoded_for=OLD)
        asked = scene.ask(decoded_for=OLD)
        await first.infers(1)
        await scene.end(first, "SIGKILL")
        second = await scene.engine(decoded_for=NEW)
        with pytest.raises(InputChangedError):
            await asked
        assert second.frames == []

    play(story)


def test_a_model_that_is_gone_in_the_next_generation_is_refused(play):
    async def story(scene):
        first = await scene.engine()
        asked = scene.ask()
        await first.infers(1)
        await scene.end(first, "SIGKILL")
        second = Engine(2)
        scene.engines.append(second)
        generation = await second.listen(scene.folder)
        await scene.client.fleet.connect(Generation("cpu", 2, generation.socket, []))
        with pytest.raises(ModelNotFound):
            await asked

    play(story)


def test_a_request_that_was_decoded_while_its_model_went_is_refused_at_once(play):
    async def story(scene):
        engine = Engine(1)
        scene.engines.append(engine)
        generation = await engine.listen(scene.folder)
        await scene.client.fleet.connect(Generation("cpu", 1, generation.socket, []))
        with pytest.raises(ModelNotFound):
            await scene.ask()

    play(story)


def test_when_the_newest_engine_goes_the_input_told_is_that_of_one_that_is_up(play):
    async def story(scene):
        await scene.engine(device="cuda:0", decoded_for=OLD)
        second = await scene.engine(device="cuda:1", decoded_for=NEW)
        assert scene.client.known.models["m"].decoded_for == NEW
        second.die()
        await until(lambda: scene.client.known.models["m"].decoded_for == OLD)

    play(story)


def test_an_engine_that_dies_while_it_is_connected_to_is_none_that_is_up(play, monkeypatch):
    def dies(connection, transport):
        FrameProtocol.connection_made(connection, transport)
        transport.abort()

    monkeypatch.setattr(EngineConnection, "connection_made", dies)

    async def story(scene):
        engine = Engine(1)
        scene.engines.append(engine)
        with pytest.raises(ConnectionResetError):
            await scene.client.fleet.connect(await engine.listen(scene.folder))
        assert not scene.client.is_up("m")
        await engine.ended.wait()  # the engine's end of it is open a moment longer

    play(story)


def test_a_generation_that_connects_after_its_successor_is_let_go(play):
    async def story(scene):
        late = Engine(1)
        generation = await late.listen(scene.folder)
        scene.engines.append(late)
        second = await scene.engine()
        await scene.client.fleet.connect(generation)
        await late.ended.wait()
        scene.ask()
        assert len(await second.infers(1)) == 1
        assert late.frames == []

    play(story)


def test_news_of_a_death_that_comes_before_the_connection_is_not_forgotten(play):
    async def story(scene):
        asked = scene.ask()
        first = Engine(1)
        scene.engines.append(first)
        turning = asyncio.ensure_future(scene.client.fleet.connect(await first.listen(scene.folder)))
        await until(lambda: ("cpu", 1) in scene.client.fleet._connections)
        scene.client.fleet.failed(EngineDied("cpu", 1, "SIGKILL", []))
        await turning
        await until(lambda: first.connection is not None)
        first.die()
        await until(lambda: not scene.client.fleet._connections)
        second = await scene.engine()
        (frame,) = await second.infers(1)
        second.answer(frame)
        assert (await asked)[1].version == "v2"

    play(story)


def unreachable(scene) -> tuple[Engine, Generation]:
    """A generation whose socket is not there."""
    engine = Engine(1)
    models = [ModelState("m", "ready", version="v1", example_seconds=0.5)]
    return engine, Generation("cpu", 1, str(scene.folder / "cpu-1.sock"), models)


def test_an_engine_whose_socket_is_gone_is_tried_until_it_is_back(play):
    async def story(scene):
        asked = scene.ask()
        engine, generation = unreachable(scene)
        turning = asyncio.ensure_future(scene.client.fleet.connect(generation))
        await until(lambda: ("cpu", 1) in scene.client.fleet._connections)
        await asyncio.wait([turning], timeout=2 * CONNECT_AGAIN_SECONDS)
        assert not turning.done()
        await engine.listen(scene.folder)
        scene.engines.append(engine)
        await turning
        (frame,) = await engine.infers(1)
        engine.answer(frame)
        assert (await asked)[1].version == "v1"

    play(story)


@pytest.mark.parametrize(
    "news",
    [
        lambda client: client.fleet.failed(EngineDied("cpu", 1, "SIGKILL", [])),
        lambda client: client.fleet.retire(Retire("cpu", 1)),
        lambda client: client.fleet._newest.update(cpu=2),
    ],
    ids=["dead", "let go", "replaced"],
)
def test_an_engine_that_cannot_be_reached_is_given_up_once_nobody_needs_it(play, news):
    async def story(scene):
        _, generation = unreachable(scene)
        turning = asyncio.ensure_future(scene.client.fleet.connect(generation))
        await until(lambda: ("cpu", 1) in scene.client.fleet._connections)
        news(scene.client)
        with pytest.raises(OSError, match="No such file"):
            await asyncio.wait_for(turning, LIMIT)
        assert not scene.client.fleet._connections

    play(story)


def test_an_engine_that_is_let_go_while_it_is_connected_to_gets_nothing(play):
    async def story(scene):
        engine = Engine(1)
        scene.engines.append(engine)
        turning = asyncio.ensure_future(scene.client.fleet.connect(await engine.listen(scene.folder)))
        await until(lambda: ("cpu", 1) in scene.client.fleet._connections)
        scene.client.fleet.retire(Retire("cpu", 1))
        await turning
        await engine.ended.wait()
        assert not scene.client.is_up("m")

    play(story)


def test_a_socket_where_others_can_write_is_not_connected_to(play):
    async def story(scene):
        scene.folder.chmod(0o777)
        engine = Engine(1)
        scene.engines.append(engine)
        turning = asyncio.ensure_future(scene.client.fleet.connect(await engine.listen(scene.folder)))
        await asyncio.wait([turning], timeout=2 * CONNECT_AGAIN_SECONDS)
        assert engine.connection is None
        scene.folder.chmod(0o700)
        await asyncio.wait_for(turning, LIMIT)
        assert scene.client.is_up("m")

    play(story)


def test_an_engine_that_is_let_go_finishes_and_others_wait_for_its_successor(play):
    async def story(scene):
        first = await scene.engine()
        before = scene.ask()
        (frame,) = await first.infers(1)
        scene.client.fleet.retire(Retire("cpu", 1))
        after = scene.ask()
        first.answer(frame)
        assert (await before)[1].version == "v1"
        await first.ended.wait()
        second = await scene.engine()
        (frame,) = await second.infers(1)
        second.answer(frame)
        assert (await after)[1].version == "v2"

    play(story)


def test_who_waits_when_the_drain_is_over_is_told_so(play):
    async def story(scene):
        engine = await scene.engine()
        aboard = scene.ask()
        await engine.infers(1)
        scene.client.fleet.retire(Retire("cpu", 1))
        orphan = scene.ask()
        await until(lambda: scene.client._orphans)
        scene.client.give_up()
        for asked in (aboard, orphan):
            with pytest.raises(Draining):
                await asked

    play(story)


def test_no_two_front_ends_ever_give_the_same_id():
    metrics = Metrics("frontend-0", make_metric_memory())
    first, replaced = (EngineClient(start, Known("", {}), Places(1, 1), metrics) for start in (1, 2))
    assert next(first._ids) + (1 << 40) == next(replaced._ids)


def test_a_request_waits_for_its_model_which_the_engine_is_told_to_bring_up_first(play):
    async def story(scene):
        engine = await scene.engine(state="loading")
        asked, other = scene.ask(), scene.ask()
        await until(lambda: engine.frames)
        assert engine.frames == [Wanted("m")]
        await scene.ready(engine)
        for frame in await engine.infers(2):
            engine.answer(frame)
        assert [(await task)[1].version for task in (asked, other)] == ["v1", "v1"]
        assert len(scene.client.fleet._connections) == 1

    play(story)


def test_a_request_that_waited_before_there_was_an_engine_is_told_of_too(play):
    async def story(scene):
        scene.client.want("m")
        engine = await scene.engine(state="loading")
        await until(lambda: engine.frames == [Wanted("m")])
        await scene.ready(engine)
        next_one = await scene.engine(state="loading")
        asked = scene.ask()
        assert len(await engine.infers(0)) == 0
        await until(lambda: next_one.frames == [Wanted("m")])  # nobody wanted it before that request
        asked.cancel()

    play(story)


def test_a_model_that_is_loading_again_is_known_as_it_was(play):
    async def story(scene):
        first = await scene.engine(decoded_for=OLD)
        await scene.end(first, "SIGKILL")
        second = await scene.engine(state="loading")
        state = scene.client.known.models["m"]
        assert (state.state, state.version, state.decoded_for) == ("ready", "v1", OLD)
        assert not scene.client.is_up("m")
        asked = scene.ask(decoded_for=OLD)
        await scene.ready(second, decoded_for=OLD)
        (frame,) = await second.infers(1)
        second.answer(frame)
        assert (await asked)[1].version == "v2"

    play(story)


def test_arrays_for_the_old_input_do_not_go_to_a_model_that_is_ready_with_another(play):
    async def story(scene):
        first = await scene.engine(decoded_for=OLD)
        await scene.end(first, "SIGKILL")
        second = await scene.engine(state="loading")
        asked = scene.ask(decoded_for=OLD)
        await scene.ready(second, decoded_for=NEW)
        with pytest.raises(InputChangedError):
            await asked
        assert not await second.infers(0)

    play(story)


def test_news_of_an_engine_that_is_still_being_connected_to_opens_no_second_connection(play):
    async def story(scene):
        engine = Engine(1, state="loading")
        scene.engines.append(engine)
        turning = asyncio.ensure_future(scene.client.fleet.connect(await engine.listen(scene.folder)))
        await until(lambda: ("cpu", 1) in scene.client.fleet._connections)
        await scene.ready(engine)
        assert not scene.client.is_up("m")
        await turning
        assert scene.client.is_up("m")
        scene.ask()
        assert len(await engine.infers(1)) == 1

    play(story)
