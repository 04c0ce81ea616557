"""OpenAI's format of completions: what is asked, and what is answered."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..config import OnUnknown
from ..data import Tokenizer
from ..data.byte_level import ByteLevelTokenizer
from ..errors import DataError, UsageError
from ..generation import Stream, Token
from ..sampling import SamplingConfig
from .config import ServeConfig
from .engine import End

MOST_LOGPROBS = 20
LONGEST_REGEX = 500  # characters: making an automaton of a longer one could take minutes
MOST_CELLS = 500_000  # of such an automaton, states times tokens: each text may bring another one
LONGEST_STOP, MOST_STOPS = 200, 16
LONGEST_TEMPERATURE = 200  # characters
_OPTIONS = (
    "temperature", "top_k", "top_p", "typical", "min_p", "repetition_penalty", "no_repeat_ngram",
    "repetition_window", "regex", "redraw",
)  # fmt: skip

Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
TokenId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]


class FieldError(UsageError):
    """What one of a request's fields asks for cannot be."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class StreamOptions(BaseModel):
    """How a streamed answer looks."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False
    """Send a last piece with the number of tokens."""


class CompletionRequest(BaseModel):
    """A request for completions: OpenAI's fields, and those of `charlstm.SamplingConfig`."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"prompt": "ROMEO:", "max_tokens": 200, "temperature": 0.8}]},
    )

    model: str | None = None
    """One of /v1/models; the first one if left out."""
    prompt: str | Annotated[list[str], Field(min_length=1)] = ""
    """Text to go on from, or several."""
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    """Tokens to generate."""
    temperature: float | Annotated[str, Field(max_length=LONGEST_TEMPERATURE)] | None = 1.0
    """0 or more; 0 takes the most probable token. "0.5,1.0": in turn; "1.2:0.4": from the one to the other."""
    top_p: float | None = 1.0
    """Nucleus sampling."""
    n: Annotated[int, Field(ge=1)] | None = 1
    """Texts for each prompt, drawn with the seed, the seed + 1 and so on."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """The same seed gives the same text; each choice tells its own."""
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    """End the text before this string, or one of these."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """Tell each token's log-probability, beside that of so many of the most probable ones."""
    echo: bool | None = False
    """Begin with the prompt, and with logprobs tell those of its tokens as well."""
    stream: bool | None = False
    """Answer piece by piece, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Whether a streamed answer ends with the number of tokens."""
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Added to the logits of tokens, by their ids."""
    user: str | None = None
    """Not used."""
    best_of: Literal[1] | None = None
    """1, if anything: all texts that are drawn are answered."""
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """0, if anything: see repetition_penalty."""
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """0, if anything: see repetition_penalty."""
    suffix: Literal[""] | None = None
    """Empty, if anything: a network that reads forwards cannot fill in."""

    top_k: Annotated[int, Field(ge=0, lt=2**31)] = SamplingConfig.top_k
    """Draw among this many of the most probable tokens only; 0: among all."""
    typical: float = SamplingConfig.typical
    """Locally typical sampling."""
    min_p: float = SamplingConfig.min_p
    """Draw among the tokens with at least this share of the most probable one's probability."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = SamplingConfig.repetition_penalty
    """Makes tokens that came lately less likely."""
    no_repeat_ngram: Annotated[int, Field(ge=0, le=4096)] = SamplingConfig.no_repeat_ngram
    """Never draw the same sequence of so many tokens twice within the window."""
    repetition_window: Annotated[int, Field(ge=0, le=4096)] = SamplingConfig.repetition_window
    """How many tokens the last two look back."""
    regex: Annotated[str, Field(max_length=LONGEST_REGEX)] | None = None
    """Draw only text that matches this regular expression as a whole."""
    redraw: bool = SamplingConfig.redraw
    """Draw once again, and keep that, if the first draw is not the most probable token."""
    on_unknown: OnUnknown | None = None
    """What to do with characters of the prompt that the model does not know."""

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def streams(self, tokenizer: Tokenizer, config: ServeConfig) -> list[Stream]:
        """What is to be drawn: n texts for the first prompt, then for the second and so on.

        Raises FieldError for what cannot be drawn, or is more than the server allows.
        """
        texts, length = self.n or 1, 16 if self.max_tokens is None else self.max_tokens
        if texts * len(self.prompts) > config.max_texts:
            raise FieldError(
                f"{texts * len(self.prompts)} texts are asked for: at most {config.max_texts} may be", "n"
            )
        if length > config.max_length:
            raise FieldError(
                f"max_tokens is {length}: at most {config.max_length} may be asked for", "max_tokens"
            )
        for prompt in self.prompts:
            if len(prompt) > 16 * config.max_prompt:  # longer than any such number of tokens
                raise FieldError(f"a prompt may have at most {config.max_prompt} tokens", "prompt")
        sampling = self._sampling(length)
        bias = _bias(self.logit_bias or {}, len(tokenizer))
        streams: list[Stream] = []
        for prompt in self.prompts:
            for _ in range(texts):
                seed = sampling.seed + len(streams)
                stream = self._stream(tokenizer, prompt, sampling, self.on_unknown or config.on_unknown, seed)
                if stream.prompt_size > config.max_prompt:
                    raise FieldError(
                        f"the prompt has {stream.prompt_size} tokens: at most {config.max_prompt} may be",
                        "prompt",
                    )
                if stream.constraint is not None and stream.constraint.next.size > MOST_CELLS:
                    raise FieldError(
                        "regex needs too many states for a server: use smaller counts or narrower classes",
                        "regex",
                    )
                stream.bias = bias
                streams.append(stream)
        return streams

    def _sampling(self, length: int) -> SamplingConfig:
        options = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        try:
            return SamplingConfig(length=length, stop=stop, seed=seed, **({"temperature": 1.0} | options))
        except UsageError as failure:  # which begins with the option's name
            raise FieldError(str(failure), str(failure).partition(" ")[0]) from None

    def _stream(
        self, tokenizer: Tokenizer, prompt: str, sampling: SamplingConfig, unknown: OnUnknown, seed: int
    ) -> Stream:
        try:
            return Stream(tokenizer, prompt, sampling, unknown, seed, self.logprobs, bool(self.echo))
        except DataError as failure:
            raise FieldError(str(failure), "prompt") from None
        except UsageError as failure:
            raise FieldError(str(failure), "regex") from None


def _bias(given: dict[str, float], V: int) -> np.ndarray | None:
    if not given:
        return None
    bias = np.zeros(V)
    for token, value in given.items():
        if int(token) >= V:
            raise FieldError(f"logit_bias: there is no token {token}: the vocabulary has {V}", "logit_bias")
        bias[int(token)] = value
    return bias


class Logprobs(BaseModel):
    """What the model thought of each token, before temperature and all else; nats."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    token_ids: list[int]


class CompletionChoice(BaseModel):
    """One text."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None
    end: Literal["length", "stop", "match", "dead end", "deadline"] | None
    """More exactly: match: the regular expression; dead end: nothing may follow; deadline: it took too long."""
    seed: int
    """What the text was drawn with."""


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The answer to a request for completions, or a piece of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ErrorDetail(BaseModel):
    """What is wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """An error, as OpenAI tells it."""

    error: ErrorDetail


class Choice:
    """One text of an answer, told piece by piece or as a whole."""

    def __init__(self, index: int, stream: Stream, names: Sequence[str], request: CompletionRequest) -> None:
        self._index, self._stream, self._names = index, stream, names
        self._echo, self._scored = bool(request.echo), request.logprobs is not None
        self._begun = False
        self._place = 0  # of the next token in the text
        self._shown = 0  # characters told so far
        self._held: list[Token] = []  # whose text may still turn out to begin a stop string
        self.end: End | None = None

    def told(self, text: str, tokens: Iterable[Token], end: End | None) -> dict[str, Any]:
        """The choice as JSON tells it, with what has come since the last time."""
        logprobs = _Logprobs(self._names) if self._scored else None
        if not self._begun:
            self._begun = True
            if self._echo:
                self._begin(logprobs)
                text = self._stream.prompt + text
        self._shown += len(text)
        self.end = end
        if logprobs is not None:
            self._held += tokens
            while self._held and (self._place < self._shown or end not in (None, "stop")):
                token = self._held.pop(0)
                logprobs.add(token, self._place)
                self._place += len(token.text)
        return {
            "index": self._index,
            "text": text,
            "logprobs": None if logprobs is None else logprobs.told,
            "finish_reason": finish_reason(end),
            "end": end,
            "seed": self._stream.seed,
        }

    def _begin(self, logprobs: _Logprobs | None) -> None:
        stream, size = self._stream, len(self._stream.prompt)
        if logprobs is not None and stream.prompt_size:
            first = int(stream.prompt_ids[0])
            logprobs.add_unscored(first, stream.first_text)
            place = len(stream.first_text)
            for token in stream.prompt_tokens:
                logprobs.add(token, min(place, size))
                place += len(token.text)
        self._place = size


class _Logprobs:
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.told: dict[str, list[Any]] = {
            "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [], "token_ids": [],
        }  # fmt: skip

    def add_unscored(self, token: int, text: str) -> None:
        self._append(token, text, None, None, 0)

    def add(self, token: Token, place: int) -> None:
        alternatives = {self._names[other]: value for other, value in token.alternatives}
        self._append(token.id, token.text, token.log_probability, alternatives, place)

    def _append(self, token: int, text: str, value: float | None, best: Any, place: int) -> None:
        name = text or self._names[token]
        for key, part in zip(self.told, (name, value, best, place, token), strict=True):
            self.told[key].append(part)


def token_names(tokenizer: Tokenizer) -> list[str]:
    """Each token's text; of one that is a part of a character the bytes, as OpenAI writes them: bytes:\\xc3."""
    if not isinstance(tokenizer, ByteLevelTokenizer):
        return [tokenizer.decode([k]) for k in range(len(tokenizer))]
    names = []
    for raw in tokenizer.token_bytes():
        try:
            names.append(raw.decode())
        except UnicodeDecodeError:
            names.append("bytes:" + "".join(f"\\x{byte:02x}" for byte in raw))
    return names


def finish_reason(end: End | None) -> str | None:
    """OpenAI's word for why a text is over."""
    if end is None:
        return None
    return "length" if end in ("length", "deadline") else "stop"


def usage(streams: Sequence[Stream], texts: int) -> dict[str, int]:
    """How many tokens were read (of each prompt once, for `texts` texts) and drawn."""
    read = sum(stream.prompt_size for stream in streams[::texts])
    drawn = sum(stream.drawn for stream in streams)
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}


def error(
    message: str, kind: str = "invalid_request_error", parameter: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI tells it."""
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
