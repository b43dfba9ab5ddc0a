"""The command line. Exit 0: well; 1: the answer is no; 2: used or configured wrongly."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import typer
from pydantic.fields import FieldInfo

import service
from service.errors import ConfigurationError
from service.settings import Settings, read_settings

app = typer.Typer(
    name="gradless",
    help="Serve frozen PyTorch models, and prove that serving builds no gradient graph.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its table cuts long flags short on 80 columns
)


def main() -> None:
    """Entry point of `gradless`: a configuration that cannot be served is told in words, with exit code 2."""
    try:
        app()
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"gradless: {problem}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gradless {service.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Serve frozen PyTorch models, and prove that serving builds no gradient graph."""


def with_settings(command: Callable[..., None], *names: str) -> Callable[..., None]:
    """Give a command a flag for each named field of Settings (all, if none is named).

    The command is called with the flags that were given, as its `flags`.
    """
    fields = {name: Settings.model_fields[name] for name in names or Settings.model_fields}
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _flag_type(field.annotation),
                typer.Option(help=_help(field), show_default=False),
            ],
        )
        for name, field in fields.items()
    ]

    def run(**given: Any) -> None:
        flags = {name: given.pop(name) for name in fields}
        command(**given, flags={name: value for name, value in flags.items() if value not in (None, [])})

    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
    return run


def _help(field: FieldInfo) -> str:
    default = "" if field.default in (None, "", []) else f" [default: {field.default}]"
    return f"{field.description}{default}"


def _flag_type(annotation: Any) -> Any:
    """What typer shall parse; what it does not know is text, which Settings then checks."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if kind in (int, float, bool, Path, list[str])]
    return Optional[kinds[0] if kinds else str]  # noqa: UP045 (made at run time, from a variable)


def _serve(flags: dict[str, Any]) -> None:
    """Serve the models of a folder over HTTP until SIGTERM or Ctrl-C."""
    import setproctitle

    from service.frontend.keys import read_keys
    from service.loader.repository import choose_default, find_models
    from service.logs import configure_logs
    from service.supervisor import Supervisor

    settings = read_settings(flags)
    configure_logs(settings)
    folders = find_models(settings.models)
    default_model = choose_default(folders, settings.default_model)
    if settings.keys_file:
        read_keys(settings.keys_file)
    setproctitle.setproctitle("gradless: supervisor")
    raise typer.Exit(asyncio.run(Supervisor(settings, folders, default_model).run()))


def _predict(
    sources: Annotated[list[str], typer.Argument(help="Picture files, folders of them, or - for standard input.")],
    flags: dict[str, Any],
    model: Annotated[str | None, typer.Option(help="Which model; else the default one.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="How many classes.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, as the server answers.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a class.")] = False,
) -> None:
    """Classify pictures in this process, without a server. Exit 1 when one could not be read."""
    from service.offline import predict_files
    from service.output import print_csv, print_json, print_table

    if json and csv:
        raise ConfigurationError(["--json and --csv exclude each other; choose one"])
    outcome = predict_files(sources, model, top_k, read_settings(flags))
    show = print_json if json else print_csv if csv else print_table
    show(outcome)
    raise typer.Exit(1 if outcome.failures else 0)


def _check(
    flags: dict[str, Any],
    names: Annotated[Optional[list[str]], typer.Argument(metavar="[MODEL]...", help="Which models; else all.")] = None,  # noqa: UP045 (typer)
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what each rule saw.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the record of this check to a file, for an audit.")] = None,
) -> None:
    """Prove every model, and run the controls. Exit 1 when a model or a control fails, 2 when a card is wrong."""
    import json as encoder

    from service.check import check_models, show_progress
    from service.output import print_check

    outcome = check_models(names or [], read_settings(flags), show_progress)
    if report:
        write_text(report, encoder.dumps(outcome.record(), indent=2) + "\n", "--report")
    if json:
        print(encoder.dumps(outcome.summary(), indent=2))
    else:
        print_check(outcome, verbose)
    raise typer.Exit(0 if outcome.passed else 1)


def write_text(path: Path, text: str, flag: str) -> None:
    """Write a file that the command line names.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as error:
        words, fix = f"cannot be written: {error.strerror}", "name a file in a folder that can be written"
        raise ConfigurationError.at(path, flag, words, fix) from error


def _compile(
    flags: dict[str, Any],
    names: Annotated[Optional[list[str]], typer.Argument(metavar="[MODEL]...", help="Which models; else all.")] = None,  # noqa: UP045 (typer)
    anew: Annotated[bool, typer.Option("--anew", help="Build what is there already once more.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile models ahead of serving, keep the packages that win, and say by how much. Exit 1 when one cannot be."""
    from service.compiler.command import compile_models

    raise typer.Exit(compile_models(names or [], read_settings(flags), anew, json))


def _bench(
    flags: dict[str, Any],
    model: Annotated[list[str] | None, typer.Option(help="Which model, as often as wanted; else three.")] = None,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Length of each measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="All take turns so often.")] = 2,
    peers: Annotated[bool, typer.Option(help="Measure LitServe, mosec and a naive app beside it.")] = True,
    url: Annotated[str, typer.Option(help="A server that runs already, http://HOST:PORT; needs --model.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it into a PNG.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write it as a page (.html) or as Markdown (.md).")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Find how it is fastest here; starts then use it.")] = False,
    latency_target: Annotated[float, typer.Option(help="With --tune: most milliseconds of a forward.")] = 0.0,
    against: Annotated[str, typer.Option(help="Compare with the server of another commit, in turns.")] = "",
) -> None:
    """Measure the server, the bare loop and what people would use instead, in one run; the ratios are the result.

    Exit 1 when a request failed, or when the machine was too busy to conclude anything.
    """
    settings, models = read_settings(flags), model or []
    if tune:
        from service.bench.tune import tune as find

        find(settings, models, latency_target, json)
        raise typer.Exit
    if against:
        from service.bench.against import against as compare

        raise typer.Exit(compare(settings, models, against, seconds, rounds, json))
    from service.bench.command import bench

    raise typer.Exit(bench(settings, models, seconds, rounds, peers, url, json, plot, report))


def _audit(
    flags: dict[str, Any],
    model: Annotated[str | None, typer.Argument(help="A model, or torchvision:NAME; else the default one.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Examples in the batch.")] = 8,
    script: Annotated[str | None, typer.Option(help="app.py:NAME or module:NAME, to look for its pitfalls.")] = None,
    shape: Annotated[str, typer.Option(help="With --script: the shape of one example.")] = "3,224,224",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the modes into a PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the modes as a page.")] = None,
) -> None:
    """Compare gradient modes on a model; or, with --script, list an inference function's pitfalls (exit 1)."""
    from service.audit.child import start_fork_server

    settings = read_settings(flags)
    start_fork_server()
    from service.audit.command import audit_model, audit_script

    if script is None:
        audit_model(settings, model, batch_size, json, plot, html)
        raise typer.Exit
    if model or plot or html:
        raise ConfigurationError(["--script stands alone; leave MODEL, --plot and --html out"])
    raise typer.Exit(audit_script(settings, script, shape, batch_size, json))


app.command("serve")(with_settings(_serve))
app.command("predict")(with_settings(_predict, "models", "default_model", "device", "threads", "max_pixels"))
app.command("check")(with_settings(_check, "models", "device", "threads", "cache"))
app.command("compile")(with_settings(_compile, "models", "device", "threads", "cache"))
app.command("bench")(with_settings(_bench, "models", "default_model", "device", "threads", "cache", "optimize"))
app.command("audit")(with_settings(_audit, "models", "default_model", "device", "threads"))
