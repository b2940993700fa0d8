"""The family of errors, and the exit codes they lead to.

A class's docstring is its message when none is given. What a user sees is one sentence that names
the thing and the remedy; the traceback goes to the log.
"""

from engine.records import Problem

EXIT_DONE = 0
EXIT_INCOMPLETE = 1  # a video or chunk failed or timed out, or an analysis is missing
EXIT_USAGE = 2
EXIT_TRY_AGAIN = 75  # locked, out of time, last slot gone: the same command later


class ReelmineError(Exception):
    """Something went wrong that we foresaw."""

    code = "E_REELMINE"
    exit_code = EXIT_INCOMPLETE

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def problem(self) -> Problem:
        """The same as a value, for results and the ledger."""
        return Problem(self.code, str(self))


class UsageError(ReelmineError):
    """An option or a file given by the user cannot be used."""

    code = "E_USAGE"
    exit_code = EXIT_USAGE


class ModelError(UsageError):
    """The model is unknown, incomplete or not to be had here."""

    code = "E_MODEL"


class RecipeError(UsageError):
    """The recipe file is broken."""

    code = "E_RECIPE"


class OutputError(UsageError):
    """The output folder cannot be written."""

    code = "E_OUTPUT"


class UnguardedError(UsageError):
    """Put the call under `if __name__ == "__main__":`; worker processes import the script again."""

    code = "E_UNGUARDED"


class LockedError(ReelmineError):
    """Another run is working on this output folder."""

    code = "E_LOCKED"
    exit_code = EXIT_TRY_AGAIN


class DiskError(ReelmineError):
    """A file could not be written."""

    code = "E_DISK"


class MediaError(ReelmineError):
    """This file cannot be used as a video."""

    code = "E_MEDIA_INVALID"


class NoAudioError(MediaError):
    """The file has no audio track."""

    code = "E_NO_AUDIO"


class NoVideosError(MediaError):
    """The folder has no videos in it."""

    code = "E_NO_VIDEOS"


class NotRegularError(MediaError):
    """Only regular files are read."""

    code = "E_NOT_REGULAR"


class UnreadableError(MediaError):
    """The file cannot be read."""

    code = "E_IO"


class CodecError(MediaError):
    """The audio codec cannot be decoded here."""

    code = "E_CODEC"


class SlotError(ReelmineError):
    """No slot could be opened."""

    code = "E_SLOT"
    exit_code = EXIT_TRY_AGAIN


class OutOfMemoryError(ReelmineError):
    """The memory is too small for this."""

    code = "E_OUT_OF_MEMORY"


class CallError(ReelmineError):
    """A call to the LLM endpoint ended without a usable answer."""

    code = "E_LLM"
    wait: float | None = None  # seconds after which the endpoint is willing again, if it said so


class CallTimeout(CallError):
    """The call did not end by its deadline."""

    code = "E_LLM_TIMEOUT"


class EndpointError(CallError):
    """The endpoint cannot be used at all (wrong key, no such model, connection refused)."""

    code = "E_LLM_ENDPOINT"


class BudgetError(EndpointError):
    """The limit on tokens or cost leaves no room for another call; raise it to go on."""

    code = "E_BUDGET"


class NotRecordedError(CallError):
    """The recording holds no reply to this question."""

    code = "E_NOT_RECORDED"


class UnreachableError(CallError):
    """The endpoint cannot be reached."""

    code = "E_LLM_CONNECT"


class StatusError(CallError):
    """The endpoint answered with an error."""

    code = "E_LLM_STATUS"


class RateError(CallError):
    """The endpoint takes no more requests for now."""

    code = "E_LLM_RATE"


class RedirectError(CallError):
    """The endpoint sends us elsewhere; transcripts follow no redirects, give the right base URL."""

    code = "E_LLM_REDIRECT"


class ContextError(CallError):
    """The chunk is too long for the model's context."""

    code = "E_LLM_CONTEXT"


class OversizeError(CallError):
    """The reply is longer than any answer can be."""

    code = "E_LLM_OVERSIZE"


class TruncatedError(CallError):
    """The answer was cut off at the token limit twice; raise max_tokens in the recipe."""

    code = "E_LLM_TRUNCATED"


class RefusedError(CallError):
    """The model refused to answer."""

    code = "E_LLM_REFUSED"


class EmptyReplyError(CallError):
    """The reply holds no answer."""

    code = "E_LLM_EMPTY"


class NotJsonError(CallError):
    """The reply is not JSON."""

    code = "E_LLM_NOT_JSON"


class SchemaError(CallError):
    """The reply is JSON, but not what the recipe asks for."""

    code = "E_LLM_SCHEMA"


class CallStopped(CallError):
    """The run was stopped while this call was under way."""

    code = "E_LLM_STOPPED"
