"""What goes over the wire of a chat completions endpoint, and what may come back.

In: what to ask, or the bytes of a reply, which may be anything. Out: the body of a request; the
text of an answer, or Failure with the reason. Knows nothing about connections or deadlines; opens
none.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine import errors
from engine.llm.endpoint import NO_KEY
from engine.llm.retry import Failure

MALFORMED_ATTEMPTS = 2
MAX_SHOWN = 300  # characters of a server's error text in ours
SECRET = 16  # characters; a shorter key ("EMPTY", "ollama") guards nothing and may be a word
PART = 12  # characters of a key that are too many to show
MOST_COUNTED = 10**9  # tokens of one exchange; a server that tells more does not count
TEMPLATE_TOKENS = 16  # that a chat template puts around a message


@dataclass(frozen=True, slots=True)
class Answer:
    """What one exchange brought; tokens are None where the server does not count."""

    text: str
    cut: bool  # it ended at the token limit
    attempts: int
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def tokens(self) -> int | None:
        """All of them."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Style:
    """How this server wants to be asked."""

    format: str = "json_schema"  # else "json_object", "text"
    limit: str = "max_tokens"  # else "max_completion_tokens"
    temperature: bool = True


def request_body(
    style: Style,
    model: str,
    messages: Sequence[Mapping[str, str]],
    schema: Mapping[str, Any],
    max_tokens: int,
) -> dict[str, Any]:
    """The arguments of the library's `create`."""
    request: dict[str, Any] = {"model": model, "messages": list(messages)}
    request[style.limit] = max_tokens
    if style.temperature:
        request["temperature"] = 0
    if style.format == "json_schema":
        wanted = {"name": "answer", "strict": True, "schema": schema}
        request["response_format"] = {"type": "json_schema", "json_schema": wanted}
    elif style.format == "json_object":
        request["response_format"] = {"type": "json_object"}
    return request


def most_tokens(request: Mapping[str, Any]) -> tuple[int, int]:
    """What a request can take at most: tokens of its prompt, and of the answer.

    No server tells beforehand what a prompt takes, so it is bounded by the bytes of messages and
    schema: half a token for a byte of ASCII (GPT-2's vocabulary, which is small, makes 0.28 of our
    prompts, and 0.6 of digits alone), one for a byte of any other script (GPT-2's makes 0.97 of
    Burmese; no vocabulary that falls back to bytes can make more), and some for the template.
    """
    sent = [request["messages"], request.get("response_format")]
    text = json.dumps(sent, ensure_ascii=False)
    plain = len(text.encode("ascii", "ignore"))
    others = len(text.encode("utf-8", "surrogatepass")) - plain
    template = TEMPLATE_TOKENS * (len(request["messages"]) + 1)
    completion = request.get("max_tokens") or request.get("max_completion_tokens") or 0
    return plain // 2 + others + template, completion


def adapt(style: Style, message: str, kind: str, parameter: str) -> Style | None:
    """How to ask after a 400; None if it was not about how we asked.

    Servers differ in their words, so names of what they refuse are looked for: `response_format`
    and its values, and the two parameters that some models want otherwise.
    """
    if is_too_long(message, kind):
        return None
    told = f"{message} {kind} {parameter}".lower()
    if style.limit == "max_tokens" and "max_completion_tokens" in told:
        return replace(style, limit="max_completion_tokens")
    if style.temperature and "temperature" in told:
        return replace(style, temperature=False)
    formats = ("response_format", "json_schema", "json schema", "json_object", "structured output")
    return simpler(style) if any(name in told for name in formats) else None


def simpler(style: Style) -> Style | None:
    """With the next format, which asks less of the server; None: there is no simpler one."""
    if style.format == "text":
        return None
    return replace(style, format="json_object" if style.format == "json_schema" else "text")


def is_too_long(message: str, kind: str) -> bool:
    """Whether a 400 says that the prompt does not fit in the model's context."""
    if kind in ("context_length_exceeded", "exceed_context_size_error"):
        return True
    told = message.lower()
    return "context" in told and any(w in told for w in ("length", "size", "window", "exceed"))


def scrub(text: str, key: str = "") -> str:
    """A server's text in one short line, without what could be a key or a part of ours."""
    text = " ".join(text[:4_000].split())
    if key and key != NO_KEY:
        text = text.replace(key, "[key]")
        parts = {key[start : start + PART] for start in range(len(key) - PART + 1)}
        words = (("[key]" if any(p in word for p in parts) else word) for word in text.split(" "))
        text = " ".join(words)
    text = re.sub(r"(?i)\bbearer\s+\S+", "[key]", text)
    text = re.sub(r"\b(?:sk|pk|key|gsk|xai)-[\w*.\-]{4,}", "[key]", text)
    return text[:MAX_SHOWN]


def told(body: object, text: str) -> tuple[str, str, str]:
    """Message, type or code, and parameter of an error reply, whatever its shape."""
    outer = body if isinstance(body, dict) else {}
    inner = outer.get("error", outer)
    if not isinstance(inner, dict):
        inner = {"message": inner}
    message = inner.get("message") or inner.get("detail") or text
    code = inner.get("code")
    kind = code if isinstance(code, str) else inner.get("type")  # some send the status as code
    return str(message), str(kind or ""), str(inner.get("param") or "")


def read_reply(body: Mapping[str, Any], key: str = "") -> Answer:
    """The answer in the body of a 200; Failure where a second attempt may bring one."""
    choices = body.get("choices")
    if choices is None:
        shown = scrub(json.dumps(body.get("error", body)), key)
        raise _malformed(errors.SchemaError(f"The reply has no choices: {shown}"))
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise _malformed(errors.EmptyReplyError())
    text, reason = message.get("content"), choice.get("finish_reason")
    if message.get("refusal") or reason == "content_filter":
        raise errors.RefusedError
    if not isinstance(text, str) or not (text.strip() or reason == "length"):
        if reason != "length":
            raise _malformed(errors.EmptyReplyError())
        text = ""  # all tokens went into thinking
    if len(key) >= SECRET:
        text = text.replace(key, "[key]")  # answers are kept in files
    prompt_tokens, completion_tokens = usage(body)
    return Answer(
        text,
        cut=reason == "length",
        attempts=1,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )


def usage(body: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer as the server counted them; None where it does not count."""
    told = body.get("usage")
    counts = told if isinstance(told, dict) else {}
    prompt = _count(counts.get("prompt_tokens"))
    if not prompt:  # there is no prompt of 0 tokens: such a server fills in numbers
        return None, None
    return prompt, _count(counts.get("completion_tokens"))


def read_object(content: bytes, key: str = "") -> dict[str, Any]:
    """The body of a 200 as JSON; Failure where a second attempt may bring it."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        shown = scrub(content[:400].decode(errors="replace"), key)
        raise _malformed(
            errors.NotJsonError(f"The endpoint's reply is not JSON; it begins: {shown}")
        ) from None
    if not isinstance(body, dict):
        raise _malformed(errors.SchemaError("The endpoint's reply is not a JSON object."))
    return body


def _malformed(error: errors.CallError) -> Failure:
    return Failure(error, most=MALFORMED_ATTEMPTS)


def _count(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= MOST_COUNTED else None
