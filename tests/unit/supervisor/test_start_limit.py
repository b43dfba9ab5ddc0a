"""When to give up."""

from __future__ import annotations

import asyncio

from service.supervisor.start_limit import StartLimit


def test_the_limit_counts_only_while_nothing_is_served():
    async def story():
        gave_up = asyncio.Event()
        limit = StartLimit(0.05, lambda seconds: gave_up.set())
        limit.tell(serving=False)
        limit.tell(serving=True)
        await asyncio.sleep(0.1)
        assert not gave_up.is_set()
        limit.tell(serving=False)
        limit.tell(serving=False)
        await asyncio.wait_for(gave_up.wait(), 5)

    asyncio.run(story())
