"""Compose an adapter from the command line, with no server.

python -m composer.cli compose --base DIR --modules DIR … --examples FILE.jsonl --out DIR
python -m composer.cli verify RECIPE.json --base DIR --modules DIR … --examples FILE.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.engine import adapter_file, config, examples, recipe
from composer.engine.config import SearchConfig
from composer.engine.errors import BadExamples, BadRecipe, CommonsError
from composer.engine.examples import Example
from composer.engine.prompt import Template, TokenCounter
from composer.engine.recipe import Recipe

if TYPE_CHECKING:
    from composer.engine.base_model import BaseModel
    from composer.engine.search import Generation
    from composer.engine.stack import Stack

# The revision of what lies in a folder and in no repository.
LOCAL = "local"


@dataclass(frozen=True)
class Inputs:
    """What a search reads, from the files that were named."""

    base: BaseModel
    stack: Stack
    folders: list[Path]
    examples: list[Example]
    held_out: list[Example]
    template: Template


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when it worked, 1 for an error of the user's, 2 for arguments that make no sense,
    3 for a recipe that does not match."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except CommonsError as error:
        print(f"Error: {error.user_message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def compose(options: argparse.Namespace) -> int:
    """Search, write the adapter and its recipe, and say how good it is."""
    settings = _settings(options)
    out = _writable(Path(options.out))
    given = _read_inputs(options, Template(options.template))
    last = _search(given, settings)
    made = recipe.build(_spec(given, settings), last.best_weights.tolist())
    made = made.with_evidence(_evidence(given, settings, last))
    _write(made, given, out)
    _print_result(given, made, out)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Run a recipe's search again and compare ids."""
    stated = _read_recipe(Path(options.recipe))
    settings = recipe.search_config(stated)
    given = _read_inputs(options, Template(stated.spec["template"]), stated)
    differs = _differs(_spec(given, settings), stated.spec)
    if differs:
        print(f"Not matched: these are not the {differs} that the recipe names.")
        return 3
    last = _search(given, settings)
    again = recipe.build(stated.spec, last.best_weights.tolist())
    if again.id == stated.id:
        print(f"Matched: {again.id}")
        return 0
    furthest = max(abs(a - b) for a, b in zip(again.weights, stated.weights, strict=True))
    print(
        f"Not matched: the weights differ by up to {furthest:.3g}. Other processors and versions "
        "round differently; the recipe's evidence names its own."
    )
    return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m composer.cli", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    files = argparse.ArgumentParser(add_help=False)
    add = files.add_argument
    add("--base", required=True, metavar="DIR", help="folder of the base model")
    add(
        "--modules",
        required=True,
        nargs="+",
        metavar="DIR",
        help="folders of LoRA modules, or folders that hold such folders",
    )
    add(
        "--examples",
        required=True,
        metavar="FILE.jsonl",
        help='one {"input": …, "target": …} a line',
    )
    add("--threads", type=int, default=None, metavar="N", help="CPU threads for torch")
    add("--device", default="cpu", help="cpu (default) or cuda")

    run = commands.add_parser("compose", parents=[files], help="make an adapter and its recipe")
    add = run.add_argument
    add("--held-out", metavar="FILE.jsonl", help="examples to score the result on")
    add("--template", default="{input}", help="the prompt, with {input} where the input goes")
    add("--preset", choices=sorted(config.PRESETS), default="recommended")
    add("--combination", choices=config.COMBINATIONS, help="instead of the preset's")
    add("--budget", type=int, help="evaluations to spend, instead of the preset's")
    add("--seed", type=int, default=0)
    add("--out", required=True, metavar="DIR", help="where to write the adapter and recipe.json")
    run.set_defaults(run=compose)

    check = commands.add_parser("verify", parents=[files], help="run a recipe again and compare")
    check.add_argument("recipe", metavar="RECIPE.json")
    check.set_defaults(run=verify)
    return parser


def _settings(options: argparse.Namespace) -> SearchConfig:
    settings = config.PRESETS[options.preset](seed=options.seed)
    if options.combination is not None:
        settings = config.with_combination(settings, options.combination)
    if options.budget is not None:
        settings = replace(settings, budget=options.budget)
    return settings.validate()


def _read_inputs(
    options: argparse.Namespace, template: Template, stated: Recipe | None = None
) -> Inputs:
    """The quick checks first; torch is loaded once they have passed."""
    shots = _read_examples(options.examples, "examples")
    held_out = _read_examples(getattr(options, "held_out", None), "held_out")
    folders = _adapter_folders(options.modules)
    if stated is not None:
        folders = _in_order_of(stated, folders)
    examples.check(shots, held_out, template=template)
    _say("Loading the model and the modules …")
    import torch

    from composer.engine import base_model, stack

    if options.threads is not None:
        torch.set_num_threads(max(1, options.threads))
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise CommonsError(
            f"The device {options.device!r} cannot be used here. Choose cpu, or cuda on a machine "
            "with a GPU and a torch made for it."
        ) from error
    base = base_model.load(options.base, device=options.device)
    tokenizer_json = Path(options.base) / "tokenizer.json"
    if base.max_tokens is not None and tokenizer_json.exists():
        counter = TokenCounter(tokenizer_json)
        examples.check(shots, held_out, counter, base.max_tokens, template)
    return Inputs(base, stack.load(folders, base), folders, shots, held_out, template)


def _read_examples(name: str | None, part: str) -> list[Example]:
    if name is None:
        return []
    try:
        text = Path(name).read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise BadExamples(f"{name} cannot be read: {error}.", part=part) from error
    return examples.read_jsonl(text, part)


def _read_recipe(path: Path) -> Recipe:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadRecipe(f"{path} cannot be read as a recipe: {error}.") from error
    return recipe.check(document)


def _adapter_folders(names: Sequence[str]) -> list[Path]:
    """Each name is an adapter's folder, or holds such folders (taken in order of name)."""
    found: list[Path] = []
    for name in names:
        folder = Path(name)
        inside = sorted(path.parent for path in folder.glob(f"*/{adapter_file.CONFIG_NAME}"))
        if (folder / adapter_file.CONFIG_NAME).is_file():
            inside = [folder]
        if not inside:
            raise CommonsError(
                f"There is no {adapter_file.CONFIG_NAME} in {name} or in the folders in it. "
                "Name folders that PEFT's save_pretrained wrote."
            )
        found += inside
    found = [folder.resolve() for folder in found]
    for folder in found:
        if found.count(folder) > 1:
            raise CommonsError(f"The module {folder} is given twice. Name it once.")
    return found


def _in_order_of(stated: Recipe, folders: Sequence[Path]) -> list[Path]:
    """The folders that hold the recipe's ingredients, in its order; all of them when one lacks."""
    weights = [folder / adapter_file.WEIGHTS_NAME for folder in folders]
    by_hash = {_file_hash(path): path.parent for path in weights if path.is_file()}
    wanted = [ingredient["sha256"] for ingredient in stated.spec["ingredients"]]
    return [by_hash[each] for each in wanted] if set(wanted) <= set(by_hash) else list(folders)


def _writable(folder: Path) -> Path:
    """Seen before the search: its result must not be lost for want of a place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise CommonsError(
            f"Nothing can be written to {folder}: {error.strerror}. Name another folder with --out."
        ) from error


def _write(made: Recipe, given: Inputs, out: Path) -> None:
    """Written beside and then moved, so that whoever is stopped leaves no half of an adapter."""
    from composer.engine.export import export

    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as name:
        folder = Path(name)
        settings = recipe.search_config(made)
        export(
            made.weights,
            given.stack,
            settings.combination,
            folder,
            blocks=settings.blocks,
            rank=settings.rank,
            recipe=recipe.canonical(made).decode(),
        )
        document = json.dumps(made.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "recipe.json").write_text(document + "\n", encoding="utf-8")
        for path in sorted(folder.iterdir()):
            path.replace(out / path.name)


def _search(given: Inputs, settings: SearchConfig) -> Generation:
    from composer.engine.loss import Objective
    from composer.engine.search import search

    batch = examples.encode(
        given.examples,
        given.template,
        given.base.tokenizer,
        is_encoder_decoder=given.base.is_encoder_decoder,
    )
    objective = Objective(given.base, given.stack, batch, settings)
    start = time.perf_counter()
    last = None
    for last in search(objective, len(given.stack), settings):
        _show(last, time.perf_counter() - start)
    assert last is not None  # a budget is at least one evaluation
    if not math.isfinite(last.best_loss):
        raise CommonsError(
            "Every candidate's loss was infinite or not a number, so there is nothing to choose. "
            "Check the examples, or choose other modules."
        )
    _say("\n" if sys.stderr.isatty() else "")
    return last


def _show(generation: Generation, seconds: float) -> None:
    """A bar that redraws itself on a terminal, one line a generation elsewhere."""
    share = generation.evaluations / generation.budget
    bar = "#" * round(30 * share)
    rate = generation.evaluations / max(seconds, 1e-9)
    line = (
        f"[{bar:<30}] {generation.evaluations}/{generation.budget}  "
        f"loss {generation.best_loss:.4f}  {rate:.0f} evaluations/s"
    )
    print(f"\r{line}  " if sys.stderr.isatty() else line, file=sys.stderr, flush=True,
          end="" if sys.stderr.isatty() else "\n")  # fmt: skip


def _spec(given: Inputs, settings: SearchConfig) -> dict[str, Any]:
    """Files from folders have no repository: their folder's name and content stand for it."""
    return recipe.make_spec(
        base_model={
            "repo": given.base.folder.resolve().name,
            "revision": LOCAL,
            "sha256": _content_hash(given.base.folder),
        },
        ingredients=[
            {
                "repo": folder.resolve().name,
                "revision": LOCAL,
                "sha256": _file_hash(folder / adapter_file.WEIGHTS_NAME),
            }
            for folder in given.folders
        ],
        config=settings,
        template=given.template.text,
        examples_hash=recipe.examples_hash(given.examples),
    )


def _evidence(given: Inputs, settings: SearchConfig, last: Generation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "loss": last.best_loss,
        "evaluations": last.evaluations,
        "trace": last.digest,
        "environment": given.base.fingerprint(),
    }
    if given.held_out:
        from composer.engine.evaluate import answer_room, predict, score

        room = answer_room(given.base, [*given.examples, *given.held_out])
        targets = [example.target for example in given.held_out]
        inputs = [example.input for example in given.held_out]
        for name, weights in (("zero_shot", None), ("composed", last.best_weights)):
            answers = predict(
                given.base,
                given.stack,
                weights,
                inputs,
                given.template,
                settings.combination,
                max_new_tokens=room,
            )
            found[name] = score(answers, targets).to_json()
    return found


def _print_result(given: Inputs, made: Recipe, out: Path) -> None:
    order = sorted(range(len(made.weights)), key=lambda i: -abs(made.weights[i]))
    print("Weights (largest first):")
    for i in order[:10]:
        print(f"  {made.weights[i]:+.3f}  {given.stack.names[i]}")
    for name in ("zero_shot", "composed"):
        if name in made.evidence:
            found = made.evidence[name]
            label = name.replace("_", "-")
            print(
                f"Held out, {label}: {found['correct']} of {found['total']} "
                f"({found['value']:.2f}, 95% {found['low']:.2f}–{found['high']:.2f})"
            )
    print(f"Adapter and recipe {made.id[:12]} written to {out}")


def _differs(ours: Mapping[str, Any], stated: Mapping[str, Any]) -> str | None:
    """Which of the files are not the recipe's, as far as it says. A site does not hash its base
    models and salts the hash of the examples, so there only the weights can tell."""
    if "sha256" in stated["base_model"] and _hashes(ours["base_model"]) != _hashes(
        stated["base_model"]
    ):
        return "base_model"
    if _hashes(ours["ingredients"]) != _hashes(stated["ingredients"]):
        return "ingredients"
    if ours["examples_hash"] != stated["examples_hash"]:
        if stated["base_model"]["revision"] == LOCAL:
            return "examples_hash"
        _say(
            "The recipe's hash of its examples is salted: only the weights can tell if they match."
        )
    return None


def _hashes(value: Any) -> Any:
    """What of a spec's entry names content: a recipe of a site calls its repositories otherwise."""
    if isinstance(value, list):
        return [_hashes(item) for item in value]
    return value.get("sha256") if isinstance(value, dict) else value


def _content_hash(folder: Path) -> str:
    """One hash over a model's weights and tokenizer, in order of name."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        total.update(f"{path.name} {_file_hash(path)}\n".encode())
    return total.hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, end="" if text == "\n" else "\n")


if __name__ == "__main__":
    sys.exit(main())
