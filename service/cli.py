"""The command line. Exit codes: 0 success; 1 the answer is no; 2 wrong usage or configuration."""

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
from service.host.descriptors import fill_standard_descriptors, print_in_utf8
from service.host.home import ensure_name_and_home
from service.settings import Settings, notes, read_settings

app = typer.Typer(
    name="gradless",
    help="Serve frozen PyTorch models, and prove that serving builds no gradient graph.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its table cuts long flags short on 80 columns
)


def main() -> None:
    """Entry point of `gradless`. A wrong configuration is explained on standard error, with exit code 2."""
    fill_standard_descriptors()
    print_in_utf8()
    ensure_name_and_home()
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Serve frozen PyTorch models, and prove that serving builds no gradient graph."""


def with_settings(command: Callable[..., None], *names: str) -> Callable[..., None]:
    """Add a flag to a command for each named setting, or for all of them.

    The command gets the flags that were given as `flags`.
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
    """Return the type for typer to parse; types it does not know become text, which Settings validates."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if kind in (int, float, bool, Path, list[str])]
    return Optional[kinds[0] if kinds else str]  # noqa: UP045 (made at run time, from a variable)


def _serve(flags: dict[str, Any]) -> None:
    """Serve the models of a folder over HTTP until SIGTERM or Ctrl-C."""
    import setproctitle
    import structlog

    from service.frontend.keys import read_keys
    from service.host.platforms import vertex_routes
    from service.loader.repository import read_catalogue
    from service.logs import configure_logs
    from service.supervisor.listeners import check_certificate
    from service.supervisor.tree import Supervisor
    from service.supervisor.watch import take_snapshot

    settings = read_settings(flags)
    vertex_routes()
    configure_logs(settings)
    for note in notes(settings):
        structlog.get_logger().warning(note.event, **note.fields)
    files = take_snapshot(settings.models) if settings.watch else None  # first, so that no change is missed
    catalogue = read_catalogue(settings.models, settings.default_model)
    if settings.keys_file:
        read_keys(settings.keys_file)
    check_certificate(settings)
    setproctitle.setproctitle("gradless: supervisor")
    raise typer.Exit(asyncio.run(Supervisor(settings, catalogue, files).run()))


def _read_settings(flags: dict[str, Any]) -> Settings:
    """Read the settings of a command without a log; notes go to standard error."""
    settings = read_settings(flags)
    for note in notes(settings):
        print(f"gradless: {note}", file=sys.stderr)
    return settings


def _predict(
    sources: Annotated[list[str], typer.Argument(help="Picture files, folders of pictures, or - for standard input.")],
    flags: dict[str, Any],
    model: Annotated[str | None, typer.Option(help="Model to run; the default model if omitted.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Number of classes to print.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, as the server answers.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per class.")] = False,
) -> None:
    """Classify pictures in this process, without a server. Exit with 1 if one cannot be read."""
    from service.commands.predict import predict_files
    from service.commands.printing import print_csv, print_json, print_table

    if json and csv:
        raise ConfigurationError(["--json and --csv exclude each other; choose one"])
    outcome = predict_files(sources, model, top_k, _read_settings(flags))
    show = print_json if json else print_csv if csv else print_table
    show(outcome)
    raise typer.Exit(1 if outcome.failures else 0)


def _check(
    flags: dict[str, Any],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models to run; all if omitted.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each rule saw.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a record of this check to a file, for an audit.")] = None,
) -> None:
    """Prove every model, and run the controls. Exit with 1 if any model or control fails, with 2 if a card is wrong."""
    import json as encoder

    from service.commands.check import check_models, show_progress
    from service.commands.printing import print_check

    outcome = check_models(names or [], _read_settings(flags), show_progress)
    if report:
        write_text(report, encoder.dumps(outcome.record(), indent=2) + "\n", "--report")
    if json:
        print(encoder.dumps(outcome.summary(), indent=2))
    else:
        print_check(outcome, verbose)
    raise typer.Exit(outcome.exit_code)


def write_text(path: Path, text: str, flag: str) -> None:
    """Write a file that the command line names.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        words, fix = f"cannot be written: {error.strerror}", "name a file in a folder that can be written"
        raise ConfigurationError.at(path, flag, words, fix) from error


def _compile(
    flags: dict[str, Any],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models to run; all if omitted.")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Rebuild packages that exist already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile models ahead of serving, keep the packages that win, and say by how much. Exit with 1 if one fails."""
    from service.compiler.command import compile_models

    raise typer.Exit(compile_models(names or [], _read_settings(flags), anew, json))


def _bench(
    flags: dict[str, Any],
    model: Annotated[
        list[str] | None, typer.Option(help="Model to measure; may be repeated. Three models if omitted.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Seconds per measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Rounds in which all take turns.")] = 2,
    peers: Annotated[bool, typer.Option(help="Also measure LitServe, mosec and a naive app.")] = True,
    url: Annotated[str, typer.Option(help="Measure a server that is running, http://HOST:PORT; needs --model.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the results as a PNG.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the results as a page (.html) or as Markdown (.md).")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the fastest configuration on this machine; later starts use it.")
    ] = False,
    latency_target: Annotated[float, typer.Option(help="With --tune: longest forward, in milliseconds.")] = 0.0,
    against: Annotated[str, typer.Option(help="Compare with the server of another commit, taking turns.")] = "",
) -> None:
    """Measure the server, the bare loop and the alternatives in one run; the ratios are the result.

    Exit with 1 if a request fails, or if the machine is too busy for a conclusion.
    """
    settings, models = _read_settings(flags), model or []
    if tune:
        from service.bench.tune import tune as find

        find(settings, models, latency_target, json)
        raise typer.Exit
    if against:
        from service.bench.against import against as compare

        raise typer.Exit(compare(settings, models, against, seconds, rounds, json))
    from service.bench.comparison import bench

    raise typer.Exit(bench(settings, models, seconds, rounds, peers, url, json, plot, report))


def _audit(
    flags: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(help="A model, or torchvision:NAME; the default model if omitted.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Examples per batch.")] = 8,
    script: Annotated[
        str | None, typer.Option(help="Inference function to examine: app.py:NAME or module:NAME.")
    ] = None,
    shape: Annotated[str, typer.Option(help="With --script: shape of one example.")] = "3,224,224",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the results as a PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the results as a page.")] = None,
) -> None:
    """Compare gradient modes on a model; with --script, list the pitfalls of an inference function (exit 1)."""
    from service.audit.fresh_process import start_fork_server

    settings = _read_settings(flags)
    start_fork_server()
    from service.audit.audits import audit_model, audit_script

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
