import argparse
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from composer import fetched
from composer.cli import options as shared
from composer.cli.shown import say
from composer.demo import library
from composer.demo.library import DemoBase
from composer.engine.errors import CommonsError

if TYPE_CHECKING:
    from composer.bbh.protocol import Protocol
    from composer.bbh.split import BenchTask
    from composer.engine.prompt import Template

DEMO = "demo"


class Command(BaseCommand):
    help = (
        "Runs LoraHub's protocol over a folder of BIG-Bench Hard files and writes the table as CSV "
        "and Markdown. Interrupted, the same command goes on where it stopped."
    )
    requires_system_checks: list[str] = []  # nothing here is the site's

    def add_arguments(self, parser: CommandParser) -> None:
        shared.add_base(parser)
        shared.add_template(parser)
        add, number = parser.add_argument, shared.at_least_one
        add("--data", required=True, type=Path, metavar="DIR", help="one .json file a task")
        add(
            "--library",
            required=True,
            nargs="+",
            metavar="MODULE",
            help="LoRA modules: folders, folders that hold such folders, repos of the Hub, "
            "'owner/*'; 'demo' is the demo library, as it is for --base",
        )
        add("--out", type=Path, default=Path("var/bbh"), metavar="DIR", help="rows and tables")
        add(
            "--tasks",
            nargs="+",
            metavar="NAME",
            help="files without .json; all when left out",
        )
        add("--without", nargs="+", default=[], metavar="METHOD", help="methods to leave out")
        add("--draws", type=number, default=5, help="draws of examples and of modules")
        add("--shots", type=number, default=5, help="examples a draw")
        add("--test", type=number, default=150, help="test examples a task, at most")
        add("--random", type=number, default=20, metavar="N", help="random modules a draw")
        add("--ranked", type=number, default=20, metavar="N", help="best modules that are mixed")
        add("--seed", type=int, default=42, help="of the split and of the draws")
        add("--batch", type=number, default=50, metavar="N", help="test inputs answered at once")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.evaluate(argparse.Namespace(**options))
        except CommonsError as error:
            raise CommandError(error.user_message) from error
        except KeyboardInterrupt:
            raise CommandError("Stopped. The same command goes on from here.") from None

    def evaluate(self, options: argparse.Namespace) -> None:
        from composer.bbh import split
        from composer.bbh.methods import METHODS
        from composer.bbh.protocol import Protocol

        unknown = sorted(set(options.without) - set(METHODS))
        if unknown:
            raise CommandError(f"No method {unknown[0]!r}. There are: {', '.join(METHODS)}.")
        methods = [name for name in METHODS if name not in options.without]
        protocol = Protocol(
            shots=options.shots,
            test=options.test,
            draws=options.draws,
            modules=options.random,
            ranked=options.ranked,
            seed=options.seed,
            batch=options.batch,
        )
        template = shared.template_of(options)
        tasks = split.read_folder(
            options.data, test=protocol.test, seed=protocol.seed, names=options.tasks
        )
        out = shared.writable(str(options.out))
        with alone_in(out):
            self.measure(options, methods, protocol, template, tasks, out)

    def measure(
        self,
        options: argparse.Namespace,
        methods: list[str],
        protocol: "Protocol",
        template: "Template",
        tasks: "list[BenchTask]",
        out: Path,
    ) -> None:
        from composer.bbh import measure, table
        from composer.bbh.protocol import setting
        from composer.bbh.results import Results
        from composer.bbh.rows import Rows

        base = fetched.base(base_name(options.base))
        names = library_names(options.library, options.base)
        bench = shared.bench_of(options, base, fetched.modules(names, base, note=say))
        readable, refused = measure.as_read(tasks, bench.base, template, protocol)
        for name, why in refused.items():
            self.stderr.write(f"{name} is left out: {why}.")
        if not readable:
            raise CommandError("The base model can read none of the tasks.")
        decided = setting(bench, protocol, template)
        facts = {"given": [options.base, *options.library], "on": bench.base.fingerprint()}
        (out / "setting.json").write_text(json.dumps({**decided, **facts}, indent=2) + "\n")
        rows = Rows(out, decided)
        with Shown() as shown:
            measure.measure(bench, readable, template, protocol, methods, rows, shown)
        results = Results(readable, methods, protocol, rows, len(bench), refused)
        (out / "results.csv").write_text(table.as_csv(results), encoding="utf-8")
        text = table.as_markdown(results)
        (out / "results.md").write_text(text, encoding="utf-8")
        self.stdout.write(f"{text}\nWritten to {out}: results.csv, results.md, rows.jsonl.")


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Two at once would measure everything twice."""
    with (out / "rows.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"Another evaluation writes to {out}. Wait for it, or name another folder with "
                "--out."
            ) from None
        yield


class Shown:
    """A bar of what is measured; rows that were there before are not counted into its speed."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> "Shown":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, total: int, words: str) -> None:
        if self.bar is None:
            self.bar = tqdm(total=total, initial=done, unit="row", mininterval=1)
        self.bar.set_postfix_str(words, refresh=False)
        self.bar.update(done - self.bar.n)


def demo_of(name: str) -> DemoBase | None:
    """The demo's base model that a word means: `demo` is the first."""
    if name == DEMO:
        return library.T5
    return next((of for of in library.BASES.values() if of.name == name), None)


def base_name(name: str) -> str:
    of = demo_of(name)
    return name if of is None else str(of.folder())


def library_names(names: list[str], base: str) -> list[str]:
    """`demo` means the modules of the demo's base model that was named, if one was."""
    found = []
    for name in names:
        of = (demo_of(base) if name == DEMO else None) or demo_of(name)
        found.append(name if of is None else str(of.modules()))
    return found
