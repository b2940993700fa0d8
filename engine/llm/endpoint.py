"""Which endpoint the options and the environment name.

In: Config and environment. Out: an Endpoint, None, or UsageError for half of one. Opens no
connection and imports no HTTP library, so a run without an endpoint pays for none.

The key comes from OPENAI_API_KEY or the file that OPENAI_API_KEY_FILE names, never from the command
line, and is not in the repr. A key alone sends nothing anywhere: a model has to be named.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from engine.config import Config
from engine.errors import UsageError

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"  # what a loopback server without keys is sent


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calls go; `host` is what receives the text of transcripts."""

    base_url: str
    host: str
    model: str
    key: str = field(default=NO_KEY, repr=False)


def find_endpoint(config: Config, env: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The endpoint to use; None: no model is named, so nothing leaves this machine."""
    key = read_key(env)
    base_url = config.llm_base_url or env.get("OPENAI_BASE_URL") or (OPENAI_URL if key else None)
    if not config.llm_model:
        if config.llm_base_url:
            raise UsageError(f"Name the model to ask at {config.llm_base_url}: --llm-model NAME.")
        return None
    if not base_url:
        raise UsageError(
            f"No endpoint for --llm-model {config.llm_model}: give --llm-base-url URL, or set "
            "OPENAI_API_KEY to use OpenAI's."
        )
    host = host_of(base_url)
    if key is None and not is_loopback(urlsplit(base_url).hostname or ""):
        raise UsageError(
            f"{host} needs a key: set OPENAI_API_KEY, or OPENAI_API_KEY_FILE to a file with it."
        )
    return Endpoint(base_url, host, config.llm_model, key or NO_KEY)


def read_key(env: Mapping[str, str]) -> str | None:
    """OPENAI_API_KEY, or the content of the file that OPENAI_API_KEY_FILE names."""
    if key := env.get("OPENAI_API_KEY", "").strip():
        return key
    if not (path := env.get("OPENAI_API_KEY_FILE")):
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeError) as error:
        raise UsageError(f"OPENAI_API_KEY_FILE {path} cannot be read.") from error


def host_of(base_url: str) -> str:
    """Host, and port if given; UsageError for what is no http or https URL."""
    try:
        url = urlsplit(base_url)
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if not host or url.scheme not in ("http", "https"):
        raise UsageError(
            f"{base_url!r} is no endpoint: a base URL begins with http:// or https:// and a host."
        )
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host


def is_loopback(host: str) -> bool:
    """Whether the name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
