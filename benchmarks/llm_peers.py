"""The peers of the LLM side as a program of its own: the openai client, used as its users do.

In: a job file (JSON of `Job`). Out: a line of JSON: seconds from the first call's start to the last
one's end, CPU seconds of this process meanwhile, how the calls ended. The client is warm (it has
listed the models) and may keep as many connections as it makes calls at a time. Imports nothing of
ours: a peer keeps no ledger, checks no answer and has no deadline but the client's own timeout.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai


@dataclass(frozen=True, slots=True)
class Job:
    """What the peer shall do."""

    way: str  # "asyncio" or "threads"
    url: str
    requests: str  # a JSON line of the arguments of `create` each
    threads: int  # calls at a time
    retries: int = 0  # of the client
    seconds: float | None = None  # no call begins later than that after the first; None: all do


def main(path: str) -> None:
    """Do the job in a file."""
    job = Job(**json.loads(Path(path).read_text("utf-8")))
    lines = Path(job.requests).read_text("utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    told = asyncio.run(_at_once(job, asked)) if job.way == "asyncio" else _in_threads(job, asked)
    print(json.dumps(told), flush=True)


def _told(states: Sequence[str], began: float, cpu: float) -> dict[str, Any]:
    return {
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "calls": len(states),
        "states": dict(Counter(states)),
    }


def _in_threads(job: Job, asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """ThreadPoolExecutor + OpenAI."""
    http = openai.DefaultHttpxClient(limits=_limits(job))
    client = openai.OpenAI(
        api_key="none", base_url=job.url, max_retries=job.retries, http_client=http
    )

    def ask(request: Mapping[str, Any]) -> str:
        if job.seconds is not None and time.monotonic() - began > job.seconds:
            return "left"
        try:
            reply = client.chat.completions.create(**request)
        except openai.OpenAIError as error:
            return type(error).__name__
        return "done" if reply.choices[0].message.content else "empty"

    with client, ThreadPoolExecutor(job.threads) as pool:
        client.models.list()
        began, cpu = time.monotonic(), time.process_time()
        return _told(list(pool.map(ask, asked)), began, cpu)


async def _at_once(job: Job, asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """AsyncOpenAI + semaphore."""
    gate = asyncio.Semaphore(job.threads)
    http = openai.DefaultAsyncHttpxClient(limits=_limits(job))
    client = openai.AsyncOpenAI(
        api_key="none", base_url=job.url, max_retries=job.retries, http_client=http
    )

    async def ask(request: Mapping[str, Any]) -> str:
        async with gate:
            try:
                reply = await client.chat.completions.create(**request)
            except openai.OpenAIError as error:
                return type(error).__name__
            return "done" if reply.choices[0].message.content else "empty"

    async with client:
        await client.models.list()
        began, cpu = time.monotonic(), time.process_time()
        states = await asyncio.gather(*(ask(request) for request in asked))
        return _told(states, began, cpu)


def _limits(job: Job) -> httpx2.Limits:
    return httpx2.Limits(max_connections=job.threads, max_keepalive_connections=job.threads)


if __name__ == "__main__":
    main(sys.argv[1])
