"""The recogniser with real weights: the batched pipeline's text, whatever the neighbours."""

import ctypes
from dataclasses import replace
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import Tokenizer
from speech import decoded, joined

from engine.errors import SlotError
from engine.records import SAMPLE_RATE, SpeechOptions, Window, WindowResult
from engine.speech.activity import SpeechDetector
from engine.speech.canary import listen
from engine.speech.sequential import FileDecoder
from engine.speech.states import array_of, take
from engine.speech.transcript import Assembly
from engine.speech.whisper import Recognizer, split
from engine.speech.windows import ROW_FRAMES, WindowStream

OPTIONS = SpeechOptions(
    mode="batched",
    language="en",
    task="transcribe",
    initial_prompt=None,
    hotwords=None,
    beam_size=5,
    word_timestamps=False,
    vad_filter=True,
    audio_track=None,
    compute_type="int8",
    quality_gates=False,
)


@pytest.fixture(scope="module")
def recognizer(tiny_en):
    return Recognizer(tiny_en, "cpu", "int8", 2)


def rows_of(audio, mels=80):
    stream = WindowStream(SpeechDetector())
    extract = FeatureExtractor(feature_size=mels)
    found = [*stream.feed(audio), *stream.finish()]
    rows = []
    for _, samples in found:
        row = np.zeros((mels, ROW_FRAMES), np.float32)
        features = extract(samples)[..., :-1]
        row[:, : features.shape[1]] = features
        rows.append(row)
    return [spans for spans, _ in found], rows


def transcribed(recognizer, audio, options, batch):
    """Segments, decoded ``batch`` windows at a time."""
    spans, rows = rows_of(audio)
    assembly = Assembly()
    for begin in range(0, len(rows), batch):
        chosen = range(begin, min(begin + batch, len(rows)))
        windows = [Window(n, spans[n], "") for n in chosen]
        results = recognizer.decode(
            recognizer.encode([rows[n] for n in chosen]),
            list(chosen),
            [w.samples / SAMPLE_RATE for w in windows],
            [options.language] * len(windows),
            options,
        )
        for window, result in zip(windows, results, strict=True):
            assembly.add(window, result)
    return assembly.segments


# What the batched pipeline leaves out, by seed: the window's seek and the text. It drops a tail
# that has no closing timestamp, and tiny.en closes all of these.
DROPPED: dict[int, list[tuple[int, str]]] = {4: [], 9: []}


@pytest.fixture(scope="module")
def audio(samples):
    return joined(samples, seconds=180, seed=4)


def test_text_is_the_batched_pipelines_and_what_that_drops_is_named(recognizer, audio, tiny_en):
    assert dropped(recognizer, audio, tiny_en) == DROPPED[4]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_text_of_half_an_hour_is_the_pipelines(recognizer, samples, tiny_en):
    half_an_hour = joined(samples, seconds=1800, seed=9)
    assert dropped(recognizer, half_an_hour, tiny_en) == DROPPED[9]


def dropped(recognizer, audio, tiny_en):
    """What only we have; all that the pipeline has must be ours too, at the same times."""
    model = WhisperModel(str(tiny_en), device="cpu", compute_type="int8", cpu_threads=2)
    segments, _ = BatchedInferencePipeline(model).transcribe(
        audio, language="en", without_timestamps=False, batch_size=3
    )
    theirs = [s for s in segments if s.text.strip()]
    extra = []
    for mine in transcribed(recognizer, audio, OPTIONS, batch=3):
        if theirs and theirs[0].text == mine.text:
            assert mine.start == pytest.approx(theirs.pop(0).start, abs=0.02)
        else:
            extra.append((mine.seek, mine.text))
    assert theirs == []
    return extra


@pytest.mark.slow
def test_results_do_not_depend_on_batch_neighbours(recognizer, audio):
    short = audio[: 100 * SAMPLE_RATE]
    alone = transcribed(recognizer, short, OPTIONS, batch=1)
    together = transcribed(recognizer, short, OPTIONS, batch=6)
    assert alone == together


@pytest.mark.slow
def test_word_times_are_the_pipelines(recognizer, audio, tiny_en):
    audio = audio[: 100 * SAMPLE_RATE]
    ours = transcribed(recognizer, audio, replace(OPTIONS, word_timestamps=True), batch=1)
    model = WhisperModel(str(tiny_en), device="cpu", compute_type="int8", cpu_threads=2)
    segments, _ = BatchedInferencePipeline(model).transcribe(
        audio, language="en", without_timestamps=False, word_timestamps=True, batch_size=1
    )
    theirs = [word for segment in segments for word in segment.words]
    for word, other in zip([w for s in ours for w in s.words], theirs, strict=True):
        assert word.word == other.word
        assert word.start == pytest.approx(other.start, abs=0.021)
        assert word.end == pytest.approx(other.end, abs=0.021)


@pytest.mark.slow
def test_sequential_mode_is_transcribe_at_temperature_0(recognizer, samples, tiny_en):
    audio = decoded(samples / "coffee_shop.mp4")
    decoder = FileDecoder(
        recognizer,
        audio,
        OPTIONS.__class__(
            **{**{f: getattr(OPTIONS, f) for f in OPTIONS.__slots__}, "vad_filter": False}
        ),
    )
    ours, ended = [], False
    while not ended:
        new, ended = decoder.advance(30.0)
        ours += new
    model = WhisperModel(str(tiny_en), device="cpu", compute_type="int8", cpu_threads=2)
    theirs, _ = model.transcribe(audio, language="en", temperature=0)
    assert [(s.text, s.start, s.end) for s in ours] == [(s.text, s.start, s.end) for s in theirs]
    assert [s.id for s in ours] == list(range(len(ours)))


def test_canary_is_understood(recognizer):
    text, seconds = listen(recognizer, ("meeting", "tuesday"))
    assert "meeting" in text.lower()
    assert seconds > 0


def test_canary_that_lacks_a_word_is_an_error(recognizer):
    with pytest.raises(SlotError, match="without zebra"):
        listen(recognizer, ("zebra",))


@pytest.fixture(scope="module")
def tokenizer(recognizer):
    return Tokenizer(recognizer.model.hf_tokenizer, False, task="transcribe", language="en")


def test_unfinished_tail_is_kept_and_ends_with_the_speech(tokenizer):
    begin = tokenizer.timestamp_begin
    said = tokenizer.encode(" Hello there.")
    tail = tokenizer.encode(" And then")
    tokens = [begin, *said, begin + 100, begin + 100, *tail]
    first, second = split(tokens, 7.5, tokenizer)
    assert (first.start, first.end, first.text) == (0.0, 2.0, " Hello there.")
    assert (second.start, second.end, second.text) == (2.0, 7.5, " And then")


def test_the_tail_that_the_pipeline_drops_of_these_tokens_is_the_unfinished_one(
    recognizer, tokenizer
):
    begin = tokenizer.timestamp_begin
    said, tail = tokenizer.encode(" Hello there."), tokenizer.encode(" And then")
    for tokens, lost in (
        ([begin, *said, begin + 100, begin + 100, *tail], [" And then"]),
        ([begin, *said, begin + 100, begin + 100, *tail, begin + 300], []),
        ([begin, *said, begin + 100, *tail], []),
    ):
        theirs, _, _ = recognizer.model._split_segments_by_timestamps(
            tokenizer=tokenizer, tokens=tokens, time_offset=0.0, segment_size=750,
            segment_duration=7.5, seek=0,
        )  # fmt: skip
        kept = [tokenizer.decode(segment["tokens"]) for segment in theirs]
        assert [p.text for p in split(tokens, 7.5, tokenizer) if p.text not in kept] == lost


def test_window_without_closing_timestamps_is_one_piece(tokenizer):
    tokens = [tokenizer.timestamp_begin, *tokenizer.encode(" Hello there.")]
    [piece] = split(tokens, 4.0, tokenizer)
    assert (piece.start, piece.end) == (0.0, 4.0)


def test_window_without_text_has_no_pieces(tokenizer):
    begin = tokenizer.timestamp_begin
    assert split([], 4.0, tokenizer) == []
    assert split([begin, begin + 50], 4.0, tokenizer) == []


@pytest.fixture(scope="module")
def multilingual(base):
    return Recognizer(base, "cpu", "int8", 2)


def test_language_is_detected_from_the_windows_own_states(multilingual, samples):
    _, [row, *_] = rows_of(decoded(samples / "moving_house.wav"))
    states = multilingual.encode([row])
    [result] = multilingual.decode(states, [0], [25.0], [None], replace(OPTIONS, language=None))
    assert result.language == "en"
    assert result.language_probability is not None
    assert result.language_probability > 0.9


@pytest.mark.slow
def test_rows_of_one_call_may_differ_in_language(multilingual, samples):
    _, [row, *_] = rows_of(decoded(samples / "moving_house.wav"))
    options = replace(OPTIONS, language=None)
    together = multilingual.decode(
        multilingual.encode([row, row]), [0, 1], [25.0, 25.0], ["en", "de"], options
    )
    alone = multilingual.decode(multilingual.encode([row]), [1], [25.0], ["de"], options)
    assert together[0].language == "en"
    assert together[1] == alone[0]
    assert together[0].pieces != together[1].pieces


def test_translation_is_another_task_of_the_same_model(multilingual, samples):
    _, [row, *_] = rows_of(decoded(samples / "moving_house.wav"))
    options = replace(OPTIONS, task="translate")
    [result] = multilingual.decode(multilingual.encode([row]), [0], [25.0], ["en"], options)
    assert result.pieces


def test_prompt_and_hotwords_reach_the_model(recognizer, samples):
    _, [row, *_] = rows_of(decoded(samples / "moving_house.wav"))
    states = recognizer.encode([row])
    plain = recognizer.decode(states, [0], [25.0], ["en"], OPTIONS)
    prompted = replace(OPTIONS, initial_prompt="all in lower case without any stops", hotwords="ok")
    changed = recognizer.decode(states, [0], [25.0], ["en"], prompted)
    assert plain != changed


def test_canary_on_a_gpu_uses_a_beam_before_any_batch_does():
    beams = []

    class Silent:
        mels, on_gpu = 80, True

        def encode(self, rows):
            return rows

        def decode(self, states, positions, seconds, languages, options):
            beams.append(options.beam_size)
            return [WindowResult(0, "en", None, 0.0, 0.0, ())]

    with pytest.raises(SlotError, match="no text"):
        listen(Silent(), ())
    assert beams == [5, 1, 1]


@pytest.mark.parametrize(("on_gpu", "calls"), [(True, 1), (False, 0)])
def test_the_error_that_stays_of_a_failed_call_is_used_up(monkeypatch, on_gpu, calls):
    shapes = []

    def encode(_, features):
        shapes.append(features.shape)
        raise RuntimeError("parallel_for failed: cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(Recognizer, "_encode", encode)
    recognizer = Recognizer.__new__(Recognizer)
    recognizer.on_gpu, recognizer.mels = on_gpu, 80
    recognizer.settle()
    assert shapes == [(1, 80, 100)] * calls


# --- some rows of a batch ----------------------------------------------------------------------


@pytest.fixture
def states():
    return np.arange(4 * 3 * 8, dtype=np.float32).reshape(4, 3, 8)


class OnGpu:
    """Stands for CTranslate2's StorageView of a GPU; its memory is the host's."""

    device = "cuda"
    dtype = ctranslate2.DataType.float16
    brought = 0  # rows that the host has read

    def __init__(self, array):
        self.array = array
        self.shape = list(array.shape)
        place = array.__array_interface__["data"][0]
        shape = array.shape
        facts = {"shape": shape, "typestr": "<f2", "data": (place, False), "version": 3}
        self.__cuda_array_interface__ = facts

    @classmethod
    def from_array(cls, array):
        if isinstance(array, np.ndarray):
            return ctranslate2.StorageView.from_array(array)
        facts = array.__cuda_array_interface__
        size = 2 * int(np.prod(facts["shape"]))
        memory = (ctypes.c_char * size).from_address(facts["data"][0])
        return cls(np.frombuffer(memory, np.float16).reshape(facts["shape"]))

    def to_device(self, device):
        OnGpu.brought += len(self.array)
        return ctranslate2.StorageView.from_array(self.array.copy())


@pytest.fixture
def gpu(monkeypatch, states):
    library = SimpleNamespace(
        StorageView=OnGpu, DataType=ctranslate2.DataType, Device=ctranslate2.Device
    )
    monkeypatch.setattr("engine.speech.states.ctranslate2", library)
    monkeypatch.setattr(OnGpu, "brought", 0)
    return OnGpu(states.astype(np.float16))


def test_one_row_of_a_gpu_stays_there(gpu):
    row = take(gpu, [2])
    assert row.device == "cuda"
    assert np.array_equal(row.array, gpu.array[2:3])
    assert take(gpu, range(4)) is gpu
    assert OnGpu.brought == 0


def test_of_several_rows_of_a_gpu_the_host_reads_no_others(gpu):
    rows = take(gpu, [3, 1])
    assert np.array_equal(np.array(rows), gpu.array[[3, 1]])
    assert OnGpu.brought == 2


def test_rows_of_bfloat16_can_be_taken(states):
    view = ctranslate2.StorageView.from_array(states).to(ctranslate2.DataType.bfloat16)
    assert np.array_equal(np.array(take(view, [3, 1])), states[[3, 1]])
    assert np.array_equal(array_of(view), states)
