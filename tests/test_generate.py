"""Generation on a scripted session: text pieces, stops, and chat templates, which are untrusted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from edgekit.models.errors import InputError, MissingExtra
from edgekit.runtimes.chat import prompt_tokens
from edgekit.runtimes.generate import Piece, generate
from edgekit.runtimes.sampling import Sampling
from edgekit.runtimes.session import SessionStats, check_tokens

END = 256


class Scripted:
    """Tokens are bytes, 256 ends; after any prompt it says `script`, with `second` as its second choice."""

    vocab, bos, eos, end_tokens = 258, 257, END, frozenset({END})

    def __init__(
        self, script: Sequence[int], context: int = 64, template: str | None = None, second: int | None = None
    ) -> None:
        self.script, self.context, self.chat_template, self.second = script, context, template, second
        self.position = self.said = 0
        self.seen: list[int] = []

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        if special and text.startswith("<bos>"):
            return [257, *text.removeprefix("<bos>").encode()]
        return list(text.encode())

    def decode_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def token_text(self, token: int) -> str:
        return {256: "<eos>", 257: "<bos>"}.get(token, chr(token))

    def reset(self) -> None:
        self.position = self.said = 0
        self.seen = []

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        check_tokens(tokens, self)
        self.position += len(tokens)
        self.seen += tokens
        logits = np.zeros(self.vocab, np.float32)
        if self.second is not None:
            logits[self.second] = 5
        logits[self.script[self.said]] = 9
        self.said += 1
        return logits

    def decode(self, token: int) -> np.ndarray:
        return self.prefill([token])

    def score(self, tokens: Sequence[int], first: int) -> np.ndarray:
        raise NotImplementedError

    def stats(self) -> SessionStats:
        return SessionStats(0, None)

    def close(self) -> None: ...


def run(session: Scripted, prompt: Sequence[int] = (1, 2), max_tokens: int = 50, **options: object) -> list[Piece]:
    return list(generate(session, prompt, max_tokens=max_tokens, sampling=Sampling(temperature=0, **options)))


def test_characters_come_whole() -> None:
    text = "aé中😀\n"
    session = Scripted([*text.encode(), END])
    pieces = run(session)
    assert "".join(piece.text for piece in pieces) == text
    assert "�" not in "".join(piece.text for piece in pieces)
    assert [piece.token for piece in pieces] == [*text.encode(), None]
    assert pieces[1] == Piece(text.encode()[1], "")  # half of é


def test_broken_characters_are_replaced_and_end_at_the_end() -> None:
    pieces = run(Scripted([0xFF, ord("b"), 0xE4, END]))
    assert [piece.text for piece in pieces] == ["�", "b", "", "�"]


def test_stops_at_an_end_token_without_saying_it() -> None:
    pieces = run(Scripted([*b"hi", END, *b"more"]))
    assert [piece.token for piece in pieces] == [*b"hi", None]
    assert [piece.stop for piece in pieces] == [None, None, "end"]


def test_stops_at_the_length() -> None:
    session = Scripted(list(b"abcdef"))
    pieces = run(session, max_tokens=3)
    assert (pieces[-1].stop, len(pieces)) == ("length", 4)
    assert session.seen == [1, 2, *b"ab"]  # the last token is not run for nothing


def test_stops_where_the_context_is_full() -> None:
    session = Scripted(list(b"abcdefgh"), context=4)
    pieces = run(session)
    # two positions for the prompt, two more for tokens whose logits give a third
    assert (bytes(piece.token for piece in pieces[:-1]), pieces[-1].stop) == (b"abc", "context")


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_piece() -> None:
    with pytest.raises(InputError, match="do not fit in a context of 4"):
        generate(Scripted(list(b"a"), context=4), [1] * 5, max_tokens=1)
    with pytest.raises(InputError, match="no token"):
        generate(Scripted(list(b"a")), [], max_tokens=1)
    with pytest.raises(InputError, match="ask for 1 or more"):
        generate(Scripted(list(b"a")), [1], max_tokens=0)


def test_the_penalty_sees_prompt_and_output() -> None:
    def say(prompt: bytes, penalty: float) -> bytes:
        session = Scripted([ord("a"), ord("a"), END], second=ord("z"))
        return bytes(piece.token for piece in run(session, list(prompt), repetition_penalty=penalty)[:-1])

    assert say(b"q", 1.0) == b"aa"
    assert say(b"q", 100.0) == b"az"  # the a that it said itself
    assert say(b"a", 100.0) == b"za"  # the a of the prompt, then the z of its own as well


def test_generation_starts_over() -> None:
    session = Scripted([*b"xy", END])
    assert [piece.text for piece in run(session)] == [piece.text for piece in run(session)]


CHATML = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def test_the_template_is_applied() -> None:
    session = Scripted([END], template=CHATML)
    assert prompt_tokens(session, "hi") == [257, *b"<user>hi</>\n<answer>"]  # one BOS, though the session adds one too
    assert prompt_tokens(session, "hi", system="be") == [257, *b"<system>be</>\n<user>hi</>\n<answer>"]


def test_raw_and_no_template() -> None:
    assert prompt_tokens(Scripted([END], template=CHATML), "hi", raw=True) == [257, *b"hi"]
    assert prompt_tokens(Scripted([END]), "<bos>") == [257, *b"<bos>"]  # written-out specials are text
    for session, raw in ((Scripted([END]), False), (Scripted([END], template=CHATML), True)):
        with pytest.raises(InputError, match="system message"):
            prompt_tokens(session, "hi", raw=raw, system="be")


def test_a_template_may_loop_break_and_dump_json() -> None:
    template = "{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}"
    assert bytes(prompt_tokens(Scripted([END], template=template), "ü")[1:]).decode() == (
        '{"role": "user", "content": "ü"}'
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception('no system role') }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content }}",
        "{{ undefined_name.attribute }}",
        "{% for %}",
        "{{ 'a' + 1 }}",
        "{{ range(10000000000) | list }}",
        "{% include '/etc/passwd' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_one_sentence(template: str) -> None:
    with pytest.raises(InputError, match=r"chat template fails .*--raw"):
        prompt_tokens(Scripted([END], template=template), "hi")


def test_jinja2_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match="jinja2 is not installed"):
        prompt_tokens(Scripted([END], template=CHATML), "hi")
