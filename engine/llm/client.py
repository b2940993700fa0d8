"""The client of one endpoint that speaks OpenAI's chat completions.

In: messages and the schema of the answer. Out: the text of the answer and what it took, or one of
the CallError family, by the deadline of the call. Knows nothing about recipes or transcripts.

One Client per process, shared by all LLM threads; it starts none. The openai library builds and
sends the requests over our transport (`transport.py`) without retries of its own; replies are read
by us (`wire.py`), because the library takes any 200 for an answer. How a server wants to be asked
is learned from its refusals (`asking.py`). No error text or log holds the API key.
"""

import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import httpx2
import openai

from engine import errors
from engine.config import Config
from engine.llm import retry, wire
from engine.llm.asking import Asking, Refusal
from engine.llm.budget import Account, Budget
from engine.llm.deadline import Scope, current, within
from engine.llm.endpoint import NO_KEY, Endpoint, host_of
from engine.llm.exchanges import Exchange, Sent, granted
from engine.llm.pace import Pace
from engine.llm.transport import DeadlineTransport, self_check

# Attempts that a reason is worth; 429, 503 and slow replies are worth all that fit in the call.
CONNECT_ATTEMPTS = 4
SERVER_ATTEMPTS = 6

_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT)
_GATEWAY_TIMEOUTS = (HTTPStatus.GATEWAY_TIMEOUT, 524)  # 524: Cloudflare's

REFUSED = (openai.BadRequestError, openai.UnprocessableEntityError)

Listener = Callable[[Sent | Exchange], object]


def open_client(endpoint: Endpoint, config: Config, budget: Budget | None = None) -> "Client":
    """The client for an endpoint."""
    return Client(
        endpoint.base_url,
        endpoint.key,
        endpoint.model,
        call_timeout=config.call_timeout,
        attempt_timeout=config.attempt_timeout,
        budget=budget,
        pace=Pace(config.llm_rpm, config.llm_tpm),
    )


class Client:
    """One endpoint and model, for any number of threads; without a `budget` there is no limit to
    what they spend, and without a `pace` none to how fast they ask."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        model: str,
        *,
        call_timeout: float = 300.0,
        attempt_timeout: float = 120.0,
        budget: Budget | None = None,
        pace: Pace | None = None,
    ) -> None:
        self_check()
        self.host = host_of(base_url)
        self.model = model
        self.call_timeout = call_timeout
        self.attempt_timeout = attempt_timeout
        self._budget = budget or Budget(model)
        self._pace = pace or Pace()
        self._listener: Listener = _nobody
        self._gate = retry.Gate()
        self._key = api_key or NO_KEY
        self._transport = DeadlineTransport(base_url)
        http = httpx2.Client(transport=self._transport, trust_env=False, follow_redirects=False)
        self._openai = openai.OpenAI(
            api_key=self._key, base_url=base_url, max_retries=0, http_client=http
        )
        self._asking = Asking(model)
        self._lock = threading.Lock()  # protects the one below
        self._calls = 0  # under way
        self._stopping = threading.Event()
        # Why the endpoint is of no use, once known. One reference, whoever sets it: needs no lock.
        self._useless: str | None = None

    def call(self) -> AbstractContextManager[Scope]:
        """The time of one call: everything asked inside ends by its deadline."""
        return within(self.call_timeout)

    def chat(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], max_tokens: int
    ) -> wire.Answer:
        """Ask, as often as it makes sense, until `call_timeout` or an earlier `call` around it.

        Raises the CallError family: EndpointError where no further call can succeed either,
        CallTimeout at the deadline, CallStopped after `stop`. After a 401, 403 or 404 to any thread
        nothing more is sent: all end with its EndpointError.
        """
        with self._under_way(), self.call() as scope:
            answer, attempts = retry.persist(
                lambda: self._asking.ask(self._exchange, messages, schema, max_tokens),
                left=lambda: scope.left,
                pause=self._pause,
                draw=random.random,
                gate=self._gate,
            )
        return replace(answer, attempts=attempts)

    def models(self) -> list[str]:
        """Names of the models that the endpoint offers, asked once; the same errors as `chat`."""
        with self._under_way(), within(self.attempt_timeout) as scope:
            try:
                body = self._openai.models.with_raw_response.list().content
                listed = wire.read_object(body, self._key).get("data")
            except openai.OpenAIError as error:
                raise self._failure(error, scope).error from None
            except retry.Failure as failure:
                raise failure.error from None
        entries = listed if isinstance(listed, list) else []
        return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]

    def listen(self, listener: Listener) -> None:
        """Have every exchange that begins or ends told to `listener`, in its own thread."""
        self._listener = listener

    def stop(self) -> None:
        """End the calls under way with CallStopped, now; any thread may call it."""
        self._stopping.set()
        self._budget.stop()
        self._transport.stop()

    def close(self) -> None:
        """Stop, and close the connections: at once, or when the last call under way has ended."""
        self.stop()
        with self._lock:
            idle = self._calls == 0
        if idle:
            self._openai.close()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        with self._lock:
            if self._stopping.is_set():
                raise errors.CallStopped
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                last = self._calls == 0 and self._stopping.is_set()
            if last:
                self._openai.close()

    def _exchange(self, request: Mapping[str, Any]) -> wire.Answer:
        """The answer in a 200; Refusal, Failure or CallError for all else."""
        prompt, completion = wire.most_tokens(request)
        with self._budget.exchange(prompt, completion, wait=current().left) as account:
            account.free = True
            if wait := self._pace.turn(time.monotonic(), current().left):
                self._pause(wait)
                if closed := self._gate.left:  # by another thread, while this one waited
                    error = errors.RateError(f"{self.host} wants no requests for {closed:.0f} s.")
                    raise retry.Failure(error, asked=closed)
            if self._useless is not None:  # found out by another thread, since this call began
                raise errors.EndpointError(self._useless)
            account.free = False
            return self._send(request, account)

    def _send(self, request: Mapping[str, Any], account: Account) -> wire.Answer:
        with within(self.attempt_timeout) as scope, self._reported(scope) as report:
            try:
                # not chat.completions.create: that costs as much again, in checks we do ourselves
                report.reply = self._openai.post(
                    "/chat/completions", cast_to=httpx2.Response, body=dict(request)
                )
            except openai.OpenAIError as error:
                report.error = error
                account.free = not _may_cost(error, scope)
                if isinstance(error, REFUSED):
                    raise self._refusal(error) from None
                failure = self._failure(error, scope)
                if isinstance(failure.error, errors.EndpointError):
                    self._useless = str(failure.error)
                try:
                    raise failure from None
                finally:
                    del failure  # its traceback holds this frame (see retry.py)
            body = wire.read_object(report.reply.content, self._key)
            account.counted = wire.usage(body)
            report.answer = wire.read_reply(body, self._key)
            return report.answer

    @contextmanager
    def _reported(self, scope: Scope) -> Iterator["_Report"]:
        """Tell the listener what became of an exchange, whatever that was."""
        call = scope.outermost
        call.exchanges += 1
        report = _Report(time.monotonic(), call.exchanges == 1)
        self._listener(Sent(report.began, report.first))
        try:
            yield report
        finally:
            exchange = report.exchange(time.monotonic())
            report.error = None  # its traceback holds what holds the report (see retry.py)
            self._pace.ended(exchange)
            self._listener(exchange)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise errors.CallStopped

    def _failure(self, error: openai.OpenAIError, scope: Scope) -> retry.Failure:
        """What an exchange without an answer is worth. Of a status error no cause is kept: the
        server's text may hold the key."""
        if isinstance(error, openai.APIStatusError):
            return self._status_failure(error)
        if self._stopping.is_set():
            return _failure(errors.CallStopped(), error, most=1)
        if scope.oversize:
            return _failure(errors.OversizeError(), error, most=1)
        if isinstance(error, openai.APITimeoutError):
            return _failure(errors.CallTimeout(f"{self.host} did not answer in time."), error)
        return self._connection_failure(error)

    def _connection_failure(self, error: openai.OpenAIError) -> retry.Failure:
        causes = _causes(error)
        reason = wire.scrub(str(causes[-1]) or type(causes[-1]).__name__, self._key)
        if isinstance(error.__cause__, httpx2.DecodingError):
            unread = errors.NotJsonError(f"The reply of {self.host} cannot be read: {reason}.")
            return _failure(unread, error, most=wire.MALFORMED_ATTEMPTS)
        found = errors.UnreachableError(f"{self.host} cannot be reached: {reason}.")
        if any(isinstance(cause, RuntimeError) for cause in causes):  # a bug
            return _failure(found, error, most=1)
        if isinstance(error.__cause__, httpx2.ConnectError):
            most = 1 if any(map(_is_bad_handshake, causes)) else CONNECT_ATTEMPTS
            return _failure(found, error, most)
        return _failure(found, error, most=SERVER_ATTEMPTS)

    def _status_failure(self, error: openai.APIStatusError) -> retry.Failure:
        status = error.status_code
        message = wire.scrub(wire.told(error.body, error.response.text)[0], self._key)
        told = f"{self.host} answered {status}: {message}"
        asked = retry.retry_after(error.response.headers, time.time())
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            remedy = "set" if self._key == NO_KEY else "check"
            return retry.Failure(errors.EndpointError(f"{told} ({remedy} OPENAI_API_KEY)"), most=1)
        if status == HTTPStatus.NOT_FOUND:
            remedy = f"check --llm-base-url and --llm-model {self.model}"
            return retry.Failure(errors.EndpointError(f"{told} ({remedy})"), most=1)
        if status // 100 == 3:
            return retry.Failure(errors.RedirectError(), most=1)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return retry.Failure(errors.RateError(told), asked=asked)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:  # also "still loading the model"
            return retry.Failure(errors.StatusError(told), asked=asked)
        passing = status // 100 == 5 or status in _PASSING
        worth = (SERVER_ATTEMPTS, asked) if passing else (1, None)
        return retry.Failure(errors.StatusError(told), *worth)

    def _refusal(self, error: openai.APIStatusError) -> Refusal:
        words = wire.told(error.body, error.response.text)
        message, kind, _ = words
        told = f"{self.host} answered {error.status_code}: {wire.scrub(message, self._key)}"
        too_long = wire.is_too_long(message, kind)
        return Refusal((errors.ContextError if too_long else errors.StatusError)(told), words)


@dataclass(slots=True)
class _Report:
    """What is known of an exchange so far."""

    began: float
    first: bool
    reply: Any = None  # the library's raw response
    error: openai.OpenAIError | None = None
    answer: wire.Answer | None = None

    def exchange(self, ended: float) -> Exchange:
        error, reply = self.error, self.reply
        if isinstance(error, openai.APIStatusError):
            reply = error.response
        headers: Mapping[str, str] = {} if reply is None else reply.headers
        return Exchange(
            self.began,
            ended,
            self.first,
            None if reply is None else reply.status_code,
            isinstance(error, openai.APITimeoutError)
            and not isinstance(error.__cause__, httpx2.ConnectTimeout),
            retry.retry_after(headers, time.time()),
            self.answer.tokens if self.answer else None,
            granted(headers, "requests"),
            granted(headers, "tokens"),
        )


def _failure(error: errors.CallError, cause: Exception, most: int | None = None) -> retry.Failure:
    error.__cause__ = cause
    return retry.Failure(error, most)


def _may_cost(error: openai.OpenAIError, scope: Scope) -> bool:
    """Whether an exchange without an answer may be charged: not where the server refused it, unless
    a gateway only stopped waiting for it; and not if nothing was sent."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _GATEWAY_TIMEOUTS
    return scope.sent


def _nobody(told: Sent | Exchange) -> None:
    """Nobody listens."""


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, innermost last."""
    chain = [error]
    while (inner := _inner(chain[-1])) is not None:
        chain.append(inner)
    return chain


def _inner(error: BaseException) -> BaseException | None:
    """The cause, which httpcore2's errors have as their argument."""
    told = error.args[0] if error.args else None
    return error.__cause__ or (told if isinstance(told, BaseException) else None)


def _is_bad_handshake(cause: BaseException) -> bool:
    """Whether TLS failed for a reason that stays, such as the certificate, and was not cut off."""
    cut = ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, cut)
