"""The recogniser of a slot: log-mel rows in, pieces of text with times out.

Two halves with one narrow seam: ``encode(rows) -> states`` and ``decode(states, ...)``, so that
another encoder can take the first half's place. Decoding is CTranslate2's ``generate`` called
directly: rows of one call may differ in language. The pieces of a window depend on its row and the
options alone, never on its neighbours. Runs in a slot's process only; the parent never imports it.
"""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from engine.records import Piece, SpeechOptions, WindowResult, Word
from engine.speech.canary import known_speech
from engine.speech.encoders import WHOLE, Encoder
from engine.speech.quality import compression_ratio
from engine.speech.sequential import FileDecoder
from engine.speech.silence import SpeechStates
from engine.speech.states import array_of, take

if TYPE_CHECKING:
    from engine.speech.encoder import TorchEncoder

TICK = 0.02  # seconds a timestamp token counts
FRAMES = 100  # encoder frames a second
WIDER = 2  # times the beam, when a row is decoded again
UNREPEATED = 3  # tokens that may not come twice then
# Tokens of the text before a row that it is told: as good as all of them (benchmarks/README.md,
# accuracy.py), and most rows' prompts are then of one length, so that they are decoded together.
TOLD = 32
PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"
SENTENCE_ENDS = ".。!！?？"


class Recognizer:
    """One Whisper model on one device."""

    may_err = True  # so that the quality gates make sense

    def __init__(
        self,
        model: Path,
        device: str,
        compute_type: str,
        threads: int,
        encoder: Encoder = WHOLE,
    ) -> None:
        self.model = WhisperModel(
            str(model), device=device, compute_type=compute_type, cpu_threads=threads
        )
        self.multilingual: bool = self.model.model.is_multilingual
        self.mels: int = self.model.model.n_mels
        self.compute_type: str = self.model.model.compute_type
        self.on_gpu: bool = device == "cuda"
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}
        kind = encoder.torch_type
        self._torch = torch_encoder(model, kind, device, threads) if kind else None
        self._speech: SpeechStates | None = None  # whole windows are read
        if encoder.speech_only:
            self._speech = SpeechStates(self._read, known_speech(self.mels)[0])

    def open_file(self, audio: np.ndarray, options: SpeechOptions) -> FileDecoder:
        """Sequential mode: a whole file, float32 mono 16 kHz."""
        return FileDecoder(self, audio, options)

    def encode(self, rows: Sequence[np.ndarray]) -> ctranslate2.StorageView:
        """Encoder states of the rows: [n, 1500, d_model]; on the model's device if they are whole.

        Without the silence after the speech where the encoder is of that kind. On a CPU one row at
        a time: several at once take longer for each. Rows are mapped files, so they are copied.
        """
        if self._speech is not None:
            states = [self._speech.of(row) for row in rows]
            return ctranslate2.StorageView.from_array(np.concatenate(states))
        return self._whole(rows)

    def _read(self, row: np.ndarray) -> np.ndarray:
        """One row of any length up to that of a window."""
        return np.array(array_of(self._whole([row])))

    def _whole(self, rows: Sequence[np.ndarray]) -> ctranslate2.StorageView:
        if self._torch is not None:
            return ctranslate2.StorageView.from_array(self._torch.encode(rows))
        if self.on_gpu:
            return self._encode(np.ascontiguousarray(np.stack(rows)))
        states = [self._encode(np.array(row[np.newaxis])) for row in rows]
        if len(states) == 1:
            return states[0]
        return ctranslate2.StorageView.from_array(np.concatenate([np.array(s) for s in states]))

    def settle(self) -> None:
        """After a call that had too little memory: what it left behind fails no other call.

        CUDA keeps a thread's last error, and of a later call in that thread CTranslate2's kernels
        take it for their own, once (triple_chevron_launch.h and util.h of Thrust in CCCL 2.7).
        """
        if self.on_gpu:
            with suppress(RuntimeError):
                self._encode(np.zeros((1, self.mels, FRAMES), np.float32))

    def _encode(self, features: np.ndarray) -> ctranslate2.StorageView:
        return self.model.model.encode(ctranslate2.StorageView.from_array(features))

    def decode(
        self,
        states: ctranslate2.StorageView,
        positions: Sequence[int],
        seconds: Sequence[float],
        languages: Sequence[str | None],
        options: SpeechOptions,
        before: Sequence[Sequence[int]] = (),
        *,
        heard: Sequence[tuple[Piece, ...]] = (),
        again: bool = False,
    ) -> list[WindowResult]:
        """The text of each row, in order.

        ``seconds`` is the speech in each window; a language that is ``None`` is detected from the
        same states. ``before``: tokens of what was said before each row, () if nothing is known;
        ``heard``: pieces that a row has already, which are in ``before`` too: it is read on from
        the end of the last one, and the result has these and the new ones, with the new ones'
        probability; ``again``: with a wider beam, and no three tokens twice.
        """
        spoken = self._languages(states, languages)
        tokenizers = [self._tokenizer(language, options.task) for language, _ in spoken]
        heard = heard or [()] * len(spoken)
        stamps = [
            [tokenizer.timestamp_begin + round(had[-1].end / TICK)] if had else []
            for tokenizer, had in zip(tokenizers, heard, strict=True)
        ]
        prompts = [
            self._prompt(tokenizer, options, said) + stamp
            for tokenizer, said, stamp in zip(
                tokenizers, before or [()] * len(spoken), stamps, strict=True
            )
        ]
        outputs = self._generate(states, prompts, tokenizers[0], options, again=again)
        results = []
        for row, output in enumerate(outputs):
            tokens = output.sequences_ids[0]
            # the stamp is the first token of the output: one more before it makes it a border
            found = split([*stamps[row], *tokens], seconds[row], tokenizers[row])
            pieces = [*heard[row], *found]
            median = 0.0
            if options.word_timestamps and found:
                pieces, median = self._align(states, row, pieces, seconds[row], tokenizers[row])
            results.append(
                WindowResult(
                    position=positions[row],
                    language=spoken[row][0],
                    language_probability=max(spoken[row][1].values(), default=None),
                    avg_logprob=output.scores[0] * len(tokens) / (len(tokens) + 1),
                    no_speech_prob=output.no_speech_prob,
                    pieces=tuple(pieces),
                    word_median=median,
                    heard=spoken[row][1],
                )
            )
        return results

    def _generate(
        self,
        states: ctranslate2.StorageView,
        prompts: Sequence[list[int]],
        tokenizer: Tokenizer,
        options: SpeechOptions,
        *,
        again: bool,
    ) -> list[Any]:
        """CTranslate2's outputs of each row; rows with prompts of one length go together."""
        outputs: dict[int, Any] = {}
        for length in dict.fromkeys(map(len, prompts)):
            rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
            found = self.model.model.generate(
                take(states, rows),
                [prompts[row] for row in rows],
                beam_size=options.beam_size * (WIDER if again else 1),
                no_repeat_ngram_size=UNREPEATED if again else 0,
                max_length=self.model.max_length,
                suppress_blank=True,
                suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
                return_scores=True,
                return_no_speech_prob=True,
                sampling_temperature=0.0,
            )
            outputs |= zip(rows, found, strict=True)
        return [outputs[row] for row in range(len(prompts))]

    def _languages(
        self, states: ctranslate2.StorageView, languages: Sequence[str | None]
    ) -> list[tuple[str, dict[str, float]]]:
        """The language of each row, and all languages' probabilities where it was not given."""
        if not self.multilingual:
            return [("en", {})] * len(languages)
        if None not in languages:
            return [(str(language), {}) for language in languages]
        found = self.model.model.detect_language(states)  # the most probable first
        return [
            (language, {}) if language else (odds[0][0][2:-2], {t[2:-2]: p for t, p in odds})
            for language, odds in zip(languages, found, strict=True)
        ]

    def _tokenizer(self, language: str, task: str) -> Tokenizer:
        key = language, task
        if key not in self._tokenizers:
            self._tokenizers[key] = Tokenizer(
                self.model.hf_tokenizer, self.multilingual, task=task, language=language
            )
        return self._tokenizers[key]

    def _prompt(
        self, tokenizer: Tokenizer, options: SpeechOptions, said: Sequence[int]
    ) -> list[int]:
        """``said``: tokens of what came before; its times do not count here and are left out."""
        before = tokenizer.encode(options.initial_prompt) if options.initial_prompt else []
        before += [token for token in said if token < tokenizer.eot][-TOLD:]
        prompt: list[int] = self.model.get_prompt(tokenizer, before, hotwords=options.hotwords)
        return prompt

    def _align(
        self,
        states: ctranslate2.StorageView,
        row: int,
        pieces: list[Piece],
        seconds: float,
        tokenizer: Tokenizer,
    ) -> tuple[list[Piece], float]:
        """Words of the pieces by cross-attention, and their median length.

        One row at a time: ``align`` pads a batch, and a padded row's times may differ.
        """
        text = [[t for t in piece.tokens if t < tokenizer.eot] for piece in pieces]
        alignment = self.model.find_alignment(
            tokenizer,
            [list(itertools.chain(*text))],
            take(states, [row]),
            int(ceil(seconds) * FRAMES),
        )[0]
        median = shorten_at_sentences(alignment)
        merge_punctuations(alignment, PREPENDED, APPENDED)
        words = iter(alignment)
        with_words = []
        for piece, tokens in zip(pieces, text, strict=True):
            taken: list[Word] = []
            used = 0
            while used < len(tokens) and (timing := next(words, None)) is not None:
                if timing["word"]:
                    taken.append(
                        Word(
                            float(timing["start"]),
                            float(timing["end"]),
                            timing["word"],
                            float(timing["probability"]),
                        )
                    )
                used += len(timing["tokens"])
            with_words.append(
                Piece(
                    piece.start,
                    piece.end,
                    piece.text,
                    piece.tokens,
                    piece.compression_ratio,
                    tuple(taken),
                )
            )
        return with_words, median


def torch_encoder(model: Path, torch_type: str, device: str, threads: int) -> "TorchEncoder":
    """The other encoder; torch is imported only where it is used, which costs a second."""
    from engine.speech.encoder import TorchEncoder

    return TorchEncoder(model, torch_type, device, threads)


def split(tokens: Sequence[int], seconds: float, tokenizer: Tokenizer) -> list[Piece]:
    """Pieces between pairs of timestamp tokens, as in openai-whisper.

    A tail without its closing timestamp ends with the window's speech (the batched pipeline drops
    it). Pieces without text are left out.
    """
    first = tokenizer.timestamp_begin
    borders = [i for i in range(1, len(tokens)) if tokens[i] >= first and tokens[i - 1] >= first]
    closed = len(tokens) >= 2 and tokens[-2] < first <= tokens[-1]
    pieces = []
    if not borders:
        stamps = [t for t in tokens if t >= first]
        end = (stamps[-1] - first) * TICK if stamps and stamps[-1] != first else seconds
        pieces.append((0.0, end, tokens))
    else:
        for begin, end in itertools.pairwise([0, *borders, *([len(tokens)] if closed else [])]):
            part = tokens[begin:end]
            pieces.append(((part[0] - first) * TICK, (part[-1] - first) * TICK, part))
        if not closed:
            tail = tokens[borders[-1] :]
            start = max(0.0, (tail[0] - first) * TICK)
            pieces.append((start, max(start, seconds), tail))
    return [
        Piece(start, end, text, tuple(part), compression_ratio(text))
        for start, end, part in pieces
        if (text := tokenizer.decode(list(part))).strip()
    ]


def shorten_at_sentences(alignment: list[dict[str, Any]]) -> float:
    """Cut over-long words at sentence ends to twice the median; returns the median (at most 0.7 s).

    In place, with openai-whisper's rule.
    """
    lengths = np.array([word["end"] - word["start"] for word in alignment])
    lengths = lengths[lengths.nonzero()]
    if not len(lengths):
        return 0.0
    median = min(0.7, float(np.median(lengths)))
    for before, word in itertools.pairwise(alignment):
        if word["end"] - word["start"] > 2 * median:
            if word["word"] in SENTENCE_ENDS:
                word["end"] = word["start"] + 2 * median
            elif before["word"] in SENTENCE_ENDS:
                word["start"] = word["end"] - 2 * median
    return median
