"""Everything that is decided, and can go wrong, before a run starts its first process.

Paths and options in, a ``Prepared`` out: what there is to do, with which model, where, and who
answers the recipes. Errors here are the user's to mend: one sentence, exit code 2 (or 75 if another
run holds the folder). Loads no model, reads no video beyond its first and last bytes.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike

from engine.analysis.analysts import LlmAnalyst, PhrasebookAnalyst
from engine.analysis.recorded import RecordedAnalyst
from engine.answering import Answering, find_answering
from engine.calls import Answerer
from engine.config import Config
from engine.errors import UsageError
from engine.job import Job
from engine.llm.budget import Budget, open_budget
from engine.media.find import Found, find_videos
from engine.media.names import shown
from engine.pools.fitting import Fit
from engine.pools.hardware import Hardware, snapshot
from engine.pools.sizing import Sizing, size
from engine.pools.slots import compute_type_for
from engine.questions import Questions
from engine.records import Problem, SpeechOptions, Video, VideoResult
from engine.speech.encoders import Encoder, Means, choose
from engine.speech.models import ResolvedModel, defaults, look_for, resolve
from engine.speech.sources import Progress
from engine.speech.weights import UnknownWeightsError, encoder_weights
from engine.store import fitted
from engine.store.files import RunLock, check_writable, sweep_temporaries
from engine.store.ledger import Ledger
from engine.store.shelf import Shelf

DEFAULT_MODEL = "default_model"  # ledger: what a folder begun without --model uses
BEGUN_ENCODER = "encoder"  # ledger: what a folder was begun with


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to start."""

    found: Found
    model: ResolvedModel
    encoder: Encoder
    hardware: Hardware
    sizing: Sizing
    options: SpeechOptions
    answering: Answering
    budget: Budget
    ledger: Ledger
    shelf: Shelf
    jobs: Mapping[int, Job]  # what is not done, by the video's number
    done: Sequence[VideoResult]

    @property
    def transcribes(self) -> bool:
        """Whether the model is needed."""
        return any(job.transcript is None for job in self.jobs.values())


def prepare(
    paths: Sequence[str | PathLike[str]],
    config: Config,
    stack: ExitStack,
    *,
    look: bool = False,
    on_fetch: Progress | None = None,
) -> Prepared:
    """Look at everything; the output folder stays locked until the stack closes.

    ``look``: only look, so that the output folder is neither made nor locked nor written to, and
    no model is fetched; nor is it where nothing is left to transcribe.
    ``on_fetch`` hears how many bytes of a model have been fetched, of how many.
    """
    answering = find_answering(config)
    if not look:
        check_writable(config.output)
        stack.enter_context(RunLock(config.output))
        sweep_temporaries(config.output)
    found = find_videos(paths, config.output)
    hardware = snapshot()
    size(hardware, config, None)  # a device that is not there: said before a model is fetched
    ledger = Ledger(config.output, look=look)
    stack.callback(ledger.close)
    asked = answering.endpoint
    budget = open_budget(config, asked.model if asked else None, ledger.spent())
    name = config.model or ledger.get(DEFAULT_MODEL)
    decide = partial(_decided, config, found, hardware, answering, budget, ledger, look)
    ready = decide(look_for(name, device_kind(config, hardware)))
    if ready.transcribes and not look and ready.model.to_fetch is not None:
        ready = decide(resolve(name, device_kind(config, hardware), on_progress=on_fetch))
    return _begun(config, ready)


def _decided(
    config: Config,
    found: Found,
    hardware: Hardware,
    answering: Answering,
    budget: Budget,
    ledger: Ledger,
    look: bool,
    model: ResolvedModel,
) -> Prepared:
    """What there is to do with this model, and where; writes no more than missing formats."""
    fits, damage = fitted.recall(model.identity, config.compute_type)
    if damage is not None:
        hardware = replace(hardware, notes=(*hardware.notes, damage))
    begun = ledger.get(BEGUN_ENCODER)
    sizing, encoder = size_with_encoder(config, hardware, model, fits, begun)
    options = speech_options(config, model)
    shelf = Shelf(
        config.output,
        ledger,
        config.output_format,
        {"name": model.name, "identity": model.identity, "encoder": encoder.name},
        asdict(options) | {"analyses": answering.keys()},
        look=look,
    )
    language = config.language if model.multilingual else "en"
    found = _without_strangers(found, shelf)
    jobs, done = _jobs(found.videos, shelf, answering, language)
    return Prepared(
        found,
        model,
        encoder,
        hardware,
        sizing,
        options,
        answering,
        budget,
        ledger,
        shelf,
        jobs,
        done,
    )


def open_answerer(prepared: Prepared, config: Config, stack: ExitStack) -> Answerer | None:
    """Who answers, ready to be called; a client closes with the stack."""
    answering, budget = prepared.answering, prepared.budget
    if not answering.recipes:
        return None
    threads = prepared.sizing.llm_cap
    if answering.endpoint is None:
        recorded = answering.recording
        local = RecordedAnalyst(recorded) if recorded else PhrasebookAnalyst.bundled()
        english, timeout = recorded is None, config.call_timeout
        return Answerer(local, english, lambda: None, lambda _: None, threads, timeout)
    from engine.llm.client import open_client  # the HTTP libraries take half a second

    client = open_client(answering.endpoint, config, budget)
    stack.callback(client.close)
    return Answerer(
        LlmAnalyst(client),
        False,
        client.stop,
        client.listen,
        threads,
        config.call_timeout,
        budget,
    )


def device_kind(config: Config, hardware: Hardware) -> str:
    """What decides the default model: "cuda" or "cpu"."""
    if config.device == "auto":
        return "cuda" if hardware.gpus else "cpu"
    return config.device.split(":")[0]


def as_used(hardware: Hardware, sizing: Sizing) -> Hardware:
    """The machine as its slots see it: without GPUs, where none has room for the model."""
    return hardware if any(slot.pin for slot in sizing.slots) else replace(hardware, gpus=())


def model_bytes(model: ResolvedModel) -> int | None:
    """Size of the weights; None if it cannot be told."""
    if model.to_fetch is not None:
        return model.to_fetch or None
    try:
        return (model.path / "model.bin").stat().st_size
    except OSError:
        return None


def speech_options(config: Config, model: ResolvedModel) -> SpeechOptions:
    """What decides the text; UsageError if the options do not go together."""
    if not model.multilingual and (
        config.task == "translate" or config.language not in (None, "en")
    ):
        asked = "translate" if config.task == "translate" else f"--language {config.language}"
        raise UsageError(
            f"The model {model.name} knows English only, so {asked} cannot be had from it: use a "
            "multilingual one, for instance --model base."
        )
    sequential = config.mode == "sequential"
    if sequential and config.batch_size not in (None, 1):
        raise UsageError("--batch-size has no meaning with --mode sequential: leave it out.")
    return SpeechOptions(
        mode=config.mode,
        language=config.language,
        task=config.task,
        initial_prompt=config.initial_prompt,
        hotwords=config.hotwords,
        beam_size=config.beam_size,
        word_timestamps=config.word_timestamps,
        vad_filter=not sequential if config.vad_filter is None else config.vad_filter,
        audio_track=config.audio_track,
        compute_type=config.compute_type,
        quality_gates=config.quality_gates and not sequential,
    )


def _begun(config: Config, ready: Prepared) -> Prepared:
    """Keep what the folder is begun with; with a note if that is less than it could be."""
    ledger, model = ready.ledger, ready.model
    begun = ledger.get(DEFAULT_MODEL) if config.model is None else None
    if ready.found.videos:
        if config.model is None and begun is None:
            ledger.set(DEFAULT_MODEL, model.name)
        if ledger.get(BEGUN_ENCODER) != ready.encoder.name:
            ledger.set(BEGUN_ENCODER, ready.encoder.name)
    better = begun and _better(begun, device_kind(config, ready.hardware))
    notes = filter(None, [better, model.note] if ready.transcribes else [])
    return replace(ready, model=replace(model, note=" ".join(notes) or None))


def _better(begun: str, kind: str) -> str | None:
    """A note where a folder was begun with less than the best default, which is kept for it."""
    best, *others = [entry.name for entry in defaults(kind)]
    if begun not in others:
        return None
    return (
        f"Model {begun}, with which this folder was begun; --model {best} for the better one, which"
        " transcribes everything anew."
    )


def size_with_encoder(
    config: Config,
    hardware: Hardware,
    model: ResolvedModel,
    fits: Mapping[str, Fit],
    begun: str | None = None,
) -> tuple[Sizing, Encoder]:
    """The plan and its encoder: GPUs without room have no say in it, and it takes room itself.

    ``begun``: the encoder that the output folder was begun with. UsageError as of both.
    """
    size_of = model_bytes(model)
    sizing = size(hardware, config, size_of, fits)
    encoder = _choose_encoder(config, as_used(hardware, sizing), model, begun)
    if encoder.torch_type is not None:
        sizing = size(hardware, config, size_of, fits, torch=True)
    return sizing, encoder


def _choose_encoder(
    config: Config, hardware: Hardware, model: ResolvedModel, begun: str | None
) -> Encoder:
    """The encoder for this machine and model; UsageError if it cannot be had."""
    device = device_kind(config, hardware)
    means = Means(
        device,
        hardware.cpu_features,
        "int8" in compute_type_for(config.compute_type, device),
        importlib.util.find_spec("torch") is not None,
        _unreadable(model),
    )
    return choose(config.encoder, begun, means, sequential=config.mode == "sequential")


def _unreadable(model: ResolvedModel) -> str | None:
    """Why torch cannot take the encoder's weights; one that is to be fetched is taken for good."""
    if model.to_fetch is not None:
        return None
    try:
        encoder_weights(model.path)
    except UnknownWeightsError as error:
        return str(error)
    return None


def _without_strangers(found: Found, shelf: Shelf) -> Found:
    """Without videos whose results would overwrite another one's, of an earlier run."""
    kept, problems = [], list(found.problems)
    for video in found.videos:
        owner = shelf.belongs_to(video)
        if owner is None:
            kept.append(video)
            continue
        message = (
            f"{shown(video.path)} is left out: {shown(video.name)} in the output folder belongs to "
            f"{shown(owner)}; name another output folder, or an input folder that holds both."
        )
        problems.append(Problem("E_NAME_TAKEN", message))
    return Found(tuple(kept), tuple(problems))


def _jobs(
    videos: Sequence[Video],
    shelf: Shelf,
    answering: Answering,
    language: str | None,
) -> tuple[dict[int, Job], list[VideoResult]]:
    jobs: dict[int, Job] = {}
    done = []
    for number, video in enumerate(videos):
        standing = shelf.look(video)
        if standing.result is not None:
            done.append(standing.result)
            continue
        questions = [Questions(recipe, answering.name) for recipe in answering.recipes]
        job = Job(video, shelf.speech_key(video), questions, language)
        if standing.transcript is not None:
            job.seal_read_back(standing.transcript)
        jobs[number] = job
    return jobs, done
