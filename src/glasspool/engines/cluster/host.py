"""What holds an agent on its node: an actor of Ray or Dask, all of whose methods are coroutines.

The driver *gives* messages, which are numbered, as a library may deliver them out of order, and *takes*
what the agent has to say: a call that waits until there is something. So the library carries messages both
ways, and needs no thread of ours.

An actor is made in no time; its agent *begins* after that, as it starts processes. So the driver can tell
a node that has no room for the actor from one whose workers take long to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from glasspool.engines.cluster.agent import Agent
from glasspool.engines.cluster.link import Missing

Fetch = Callable[[Any], Awaitable[Any]]
"""Returns the memory for which something stands that ``Link.put`` returned."""


class Host:
    """An agent, and the way to it. All coroutines run on one event loop."""

    make_agent: Callable[[bytes, str, Callable[[], None]], Any] = Agent

    def __init__(self, node: str, fetch: Fetch) -> None:
        self._node = node
        self._fetch = fetch
        self._agent: Agent | None = None
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settled = asyncio.Event()  # there is an agent, or a failure, or it has ended
        self._news = asyncio.Event()
        self._is_waiting = False  # nobody has rung since the one who takes has looked
        self._next = 0  # the number of the next message that the agent is to have
        self._early: dict[int, tuple[bytes, Sequence[Any]]] = {}
        self._ending = False
        self._ended = False

    async def begin(self, setup: bytes) -> None:
        """Make the agent. It starts processes, so another thread does it."""
        self._loop = asyncio.get_running_loop()
        make = self._loop.run_in_executor(
            None, type(self).make_agent, setup, self._node, self._ring
        )
        try:
            self._agent = await make
            self._deliver()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._settled.set()

    async def give(self, number: int, body: bytes, buffers: Sequence[Any]) -> None:
        """Take a message to the agent; those before it go first."""
        fetched = [await self._fetched(buffer) for buffer in buffers]
        if number >= self._next:  # else it has come twice
            self._early[number] = (body, fetched)
        self._deliver()

    def _deliver(self) -> None:
        agent = self._agent
        if agent is None or self._ending:
            return
        while (message := self._early.pop(self._next, None)) is not None:
            self._next += 1
            agent.receive(*message)

    async def _fetched(self, buffer: Any) -> Any:
        if isinstance(buffer, bytes | bytearray | memoryview):
            return buffer
        try:
            return await self._fetch(buffer)
        except Exception as error:
            return Missing(f"memory that tasks share did not come to {self._node}: {error}")

    async def take(self) -> tuple[bytes, list[Any]] | None:
        """Return what the agent has to say; wait until there is something. None: it has ended."""
        await self._settled.wait()  # woken by ``begin``, or by ``end``
        if self._failure is not None:
            raise self._failure
        while True:
            message = None if self._agent is None else self._agent.collect()
            if message is not None or self._ended:
                return message
            self._news.clear()
            self._is_waiting = True  # before it looks again: what comes after that rings
            if self._agent is None or not self._agent.has_news:
                await self._news.wait()  # woken by the agent, or by its end
            self._is_waiting = False

    async def end(self, grace_s: float) -> None:
        """End the agent, and its workers.

        Raises:
            TimeoutError: It has not ended after so long; it goes on to end.
        """
        self._ending = True
        try:
            if self._loop is not None:  # it began; perhaps it does so now
                await asyncio.wait_for(self._end_agent(self._loop), grace_s)
        finally:
            self._ended = True
            self._settled.set()
            self._news.set()

    async def _end_agent(self, loop: asyncio.AbstractEventLoop) -> None:
        await self._settled.wait()  # set by ``begin``
        if self._agent is not None:
            await loop.run_in_executor(None, self._agent.end)

    def _ring(self) -> None:
        """There is something to be taken (any thread)."""
        if not self._is_waiting:
            return  # whoever takes next looks first; to ring each time costs more than short tasks
        self._is_waiting = False
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._news.set)
