"""The commands in one list, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from edgekit.cli import bench, compare, devices, evaluate, export, inspect, plan, prune, quantize, run
from edgekit.cli.options import Debug, State
from edgekit.models.errors import InfrastructureError, InputError, InvalidResultError, TargetError

COMMANDS = (
    ("prune", prune),
    ("quantize", quantize),
    ("plan", plan),
    ("export", export),
    ("eval", evaluate),
    ("run", run),
    ("bench", bench),
    ("compare", compare),
    ("inspect", inspect),
    ("devices", devices),
)

# typer's base of all errors in the command line itself; it has been in two places over its versions.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="edgekit",
    help="From a trained language model to a file that fits a device, measured.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example:  edgekit quantize CHECKPOINT --device pi4b -o model.gguf",
)
for _name, _module in COMMANDS:
    _lines = "\n".join(f"  {example}" for example in _module.EXAMPLES)
    _epilog = f"\b\nExamples:\n{_lines}"
    if hasattr(_module, "group"):  # a command that has commands
        app.add_typer(_module.group, name=_name, epilog=_epilog)
    else:
        app.command(_name, epilog=_epilog)(_module.command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    The exit code: 0, 2 for input that cannot be used, 6 for a device that fails us, 1 for every other failure; and the
    verdicts of `bench` and `compare`: 3, 4 and 5.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name or a token that the terminal's encoding lacks is no failure
            stream.reconfigure(errors="backslashreplace")
    state = State()
    try:
        code = _invoke(list(sys.argv[1:] if arguments is None else arguments), state)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has left (`edgekit inspect ... | head`); point stdout elsewhere, or Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; no half-written file was left", 1, state)
    except UsageError as error:
        return _fail(f"error: {_usage_sentence(error)}", 2, state)
    except InputError as error:
        return _fail(f"error: {error}", 2, state)
    except TargetError as error:
        return _fail(f"error: {error}", 1, state)
    except InvalidResultError as error:
        return _fail(f"error: {error}", 5, state)
    except InfrastructureError as error:
        return _fail(f"error: {error}", 6, state)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return _fail(f"error: {named}{error.strerror or error}", 1, state)
    except MemoryError:
        return _fail("error: there is not enough memory: close other programs or use a smaller model", 1, state)
    # The outermost boundary: whatever nobody foresaw is told as one sentence, and in full with --debug.
    except Exception as error:  # noqa: BLE001
        what = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        hint = "" if state.debug else " (add --debug for the traceback)"
        return _fail(f"error: unexpected {what}{hint}", 1, state)


def _invoke(arguments: list[str], state: State) -> int:
    """Parse and run; typer's own `main` is passed by, since it would print errors in its own way."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("edgekit", arguments or ["--help"], obj=state) as context:
            command.invoke(context)
    except typer.Exit as finished:
        return finished.exit_code
    return 0


def _fail(sentence: str, code: int, state: State) -> int:
    if state.debug:
        traceback.print_exc()
    print(f"edgekit: {sentence}", file=sys.stderr)
    return code


def _usage_sentence(error: Exception) -> str:
    message = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "edgekit"
    return f"{' '.join(message.split()).rstrip('.')}: see {where} --help"


def _version(context: typer.Context, value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"edgekit {version('edgekit')}")
        raise typer.Exit


@app.callback()
def everywhere(
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """From a trained language model to a file that fits a device, measured."""
