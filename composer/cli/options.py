"""Options that several commands have, and what they name, read and checked."""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer import fetched
from composer.cli.shown import Bar, say
from composer.engine import examples, recipe
from composer.engine.errors import BadExamples, BadRecipe, CommonsError
from composer.engine.examples import Example
from composer.engine.prompt import Template
from composer.engine.recipe import Recipe
from composer.fetched import Source

if TYPE_CHECKING:
    from composer.engine.screening import Screening
    from composer.workbench import Workbench

DTYPES = ("auto", "float32", "bfloat16", "float16")


def command(commands: Any, name: str, does: str, example: str) -> argparse.ArgumentParser:
    """A command whose help ends with an example to copy."""
    return commands.add_parser(  # type: ignore[no-any-return]
        name,
        help=does,
        description=f"{does[:1].upper()}{does[1:]}.",
        epilog=f"Example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_base(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base", required=True, metavar="MODEL", help="base model: a folder, or a repo of the Hub")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--dtype", choices=DTYPES, default="auto", help="number format of the base model's weights")
    add("--quantise", choices=("8bit", "4bit"), help="load it quantised (needs bitsandbytes)")
    add("--spread", action="store_true", help="spread it over all devices there are")
    add("--threads", type=at_least_one, default=None, metavar="N", help="CPU threads for torch")


def add_modules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modules",
        required=True,
        nargs="+",
        metavar="MODULE",
        help="LoRA modules: folders, folders that hold such folders, repos of the Hub, 'owner/*'",
    )


def add_examples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--examples",
        required=True,
        metavar="FILE.jsonl",
        help='one {"input": …, "target": …} a line',
    )


def add_template(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--template", default="{input}", help="the prompt, with {input} where the input goes")
    add(
        "--no-chat",
        action="store_true",
        help="read prompts as they stand, also where the tokenizer has a chat template",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def at_least_one(text: str) -> int:
    """An argument's number, for argparse to refuse."""
    number = int(text) if text.strip().lstrip("-").isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def template_of(options: argparse.Namespace) -> Template:
    return Template(options.template, False if options.no_chat else None)


def read_examples(name: str | None, part: str) -> list[Example]:
    if name is None:
        return []
    try:
        text = Path(name).read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise BadExamples(f"{name} cannot be read: {error}.", part=part) from error
    return examples.read_jsonl(text, part)


def read_recipe(name: str) -> Recipe:
    """A recipe from its file, from an adapter's folder, or out of the weights file itself."""
    path = Path(name)
    if path.is_dir():
        path = path / "recipe.json"
    try:
        if path.suffix == ".safetensors":
            return recipe.inside(path)
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadRecipe(f"{path} cannot be read as a recipe: {error}.") from error
    return recipe.check(document)


def writable(name: str) -> Path:
    """Seen before the search: its result must not be lost for want of a place."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise CommonsError(
            f"Nothing can be written to {folder}: {error.strerror}. Name another folder with --out."
        ) from error


def sources(options: argparse.Namespace) -> tuple[Source, list[Source]]:
    """The base model's and the modules' files, without torch."""
    base = fetched.base(options.base)
    return base, fetched.modules(options.modules, base, note=say)


def bench_of(options: argparse.Namespace, base: Source, modules: Sequence[Source]) -> Workbench:
    """Model and modules, loaded: the long part, with torch."""
    say("Loading the model and the modules …")
    # What the libraries deprecate is for us to follow, not for whoever runs the command.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    from composer.workbench import Workbench

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise CommonsError(
            f"The device {options.device!r} cannot be used here. Choose cpu, or cuda on a machine "
            "with a GPU and a torch made for it."
        ) from error
    return Workbench.of(
        base,
        modules,
        device=options.device,
        dtype=None if options.dtype == "auto" else getattr(torch, options.dtype),
        quantisation=options.quantise,
        device_map="auto" if options.spread else None,
    )


def ranked(
    bench: Workbench, shots: Sequence[Example], template: Template, best: int | None
) -> Screening:
    """Each module alone on the examples, under a bar; `best` as in `Workbench.rank`."""
    bar = Bar()
    found = bench.rank(
        shots,
        template=template.text,
        chat=template.chat,
        best=best,
        on_progress=lambda done, total: bar.show(done, total, "modules measured alone"),
    )
    bar.end()
    if found.rough:
        say(f"A first look in 8 bits was enough to leave out {len(found.rough)} of them.")
    return found
