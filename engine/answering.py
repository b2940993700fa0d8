"""Who answers the recipes of a run: a model behind an endpoint, a recording of one, the phrasebook.

In: options and the environment. Out: an Answering, or UsageError for options that do not go
together. Opens no connection and imports no HTTP library.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.analysis.analysts import PHRASES, PhrasebookAnalyst
from engine.analysis.recipes import Recipe, load
from engine.config import Config
from engine.errors import UsageError
from engine.llm.endpoint import Endpoint, find_endpoint
from engine.speech.models import find_models_folder
from engine.store.keys import digest, fingerprint
from engine.store.recording import Recording, read_recording


@dataclass(frozen=True, slots=True)
class Answering:
    """What is asked, and who answers it; with neither endpoint nor recording the phrasebook."""

    recipes: Sequence[Recipe]
    endpoint: Endpoint | None = None
    recording: Recording | None = None

    @property
    def model(self) -> str | None:
        """The language model whose answers these are; None: the phrasebook's."""
        asked = self.recording or self.endpoint
        return asked.model if asked else None

    @property
    def name(self) -> str:
        """The answerer's name in result files."""
        return self.model or PhrasebookAnalyst.name

    @property
    def shown(self) -> str:
        """The same for people."""
        return f"{self.name} (recorded in {self.recording.path})" if self.recording else self.name

    @property
    def hosts(self) -> tuple[str, ...]:
        """Who receives the text of transcripts."""
        return (self.endpoint.host,) if self.endpoint and self.recipes else ()

    def keys(self) -> dict[str, str]:
        """Recipe -> key of everything that changes its answers, beside the text."""
        if not self.recipes:
            return {}
        who = self.model or _phrasebook_digest()
        return {recipe.name: digest([recipe.digest, who]) for recipe in self.recipes}


def find_answering(config: Config) -> Answering:
    """Who answers, by the options; recordings and recipe files are read here."""
    if config.record and config.replay:
        raise UsageError(
            "--record and --replay do not go together: what is replayed is recorded already."
        )
    if config.record and config.record.is_dir():
        raise UsageError(f"--record {config.record} is a folder: name a file.")
    recipes = _recipes(config)
    if not recipes:
        return Answering(recipes)
    if config.replay:
        return Answering(recipes, recording=read_recording(config.replay, config.llm_model))
    answering = Answering(recipes, find_endpoint(config))
    unanswered = [recipe.name for recipe in recipes if recipe.needs_endpoint]
    if unanswered and answering.model is None:
        raise UsageError(
            f"The recipe {unanswered[0]} needs a language model: give --llm-model (and "
            "--llm-base-url for a server of your own); offline there is only expressions."
        )
    return answering


def _recipes(config: Config) -> list[Recipe]:
    recipes = [load(name) for name in config.recipe] if config.analysis else []
    names = [recipe.name for recipe in recipes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"Two recipes are called {twice.pop()}: rename one in its file.")
    return recipes


def _phrasebook_digest() -> str:
    book = find_models_folder() / PhrasebookAnalyst.name / PHRASES
    try:
        return fingerprint(str(book), book.stat().st_size)
    except OSError as error:
        raise UsageError(f"The phrasebook {book} cannot be read: install reelmine anew.") from error
