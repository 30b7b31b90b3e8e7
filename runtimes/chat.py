"""Turn a message into prompt tokens, through the file's own chat template where it has one."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from edgekit.models.errors import InputError, MissingExtra
from edgekit.runtimes.session import Session


def prompt_tokens(session: Session, text: str, *, raw: bool = False, system: str | None = None) -> list[int]:
    """BOS if the model wants it, then the text: as a user's message in the chat template, unless `raw` or without one.

    `system` is a system message before it. Raises InputError where the template cannot be rendered or a system message
    has no template, MissingExtra where jinja2 is not installed.
    """
    template = None if raw else session.chat_template
    if template is not None:
        tokens = session.encode(render(template, text, session, system=system), special=True)
    elif system is None:
        tokens = session.encode(text)
    else:
        why = "--raw goes without the chat template" if raw else "the file has no chat template"
        raise InputError(f"{why}, and a system message needs one: write it into the prompt")
    if session.bos is not None and tokens[:1] != [session.bos]:
        tokens.insert(0, session.bos)
    return tokens


def render(template: str, text: str, session: Session, *, system: str | None = None) -> str:
    """The chat template with one user message (and a system message), up to where the model's answer starts.

    A template comes with a file from anywhere: it runs in jinja2's sandbox, which gives it no attribute or function
    beyond its own arguments.
    """
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError as error:
        raise MissingExtra("jinja2", "chat") from error
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form))
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": text})
    try:
        return environment.from_string(template).render(
            messages=messages,
            add_generation_prompt=True,
            bos_token="" if session.bos is None else session.token_text(session.bos),
            eos_token="" if session.eos is None else session.token_text(session.eos),
        )
    # What a template's expressions can raise, beside jinja2's own errors.
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError,
            ValueError) as error:  # fmt: skip
        reason = str(error) or type(error).__name__
        raise InputError(f"the file's chat template fails ({reason}): use --raw to do without it") from error


def _raise(message: str) -> NoReturn:
    raise ValueError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
