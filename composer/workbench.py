"""The engine in five lines, for notebooks and the command line: no site, no database.

    from composer.workbench import Workbench

    bench = Workbench.open("google/flan-t5-large", ["lorahub/*"])
    found = bench.compose([("big", "small"), ("hot", "cold"), ("old", "new")])
    print(found.answer(["wet", "loud"]))
    found.save("my-adapter")

Base model and modules are folders or repos of the Hub; `org/*` is all of an author's modules.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from composer import fetched
from composer.engine import (
    adapter_file,
    base_model,
    chunk,
    config,
    evaluate,
    memory,
    recipe,
    screening,
    stack,
)
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch, chat_of, encode
from composer.engine.blocks import count
from composer.engine.card import card
from composer.engine.config import SearchConfig
from composer.engine.errors import BadExamples, CommonsError
from composer.engine.evaluate import Score
from composer.engine.examples import TARGET_NAMES, Example, check
from composer.engine.export import handed_out
from composer.engine.finalise import finalise
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.recipe import Recipe
from composer.engine.screening import Progress, Screening
from composer.engine.search import Generation, search
from composer.engine.stack import Stack
from composer.fetched import LOCAL, Source

BASE = "the base model alone"
AT_ONCE = 64
Array = NDArray[np.float64]
Given = Sequence[Example | tuple[str, str] | Mapping[str, str]]


@dataclass(frozen=True)
class Workbench:
    """A base model with modules of it, loaded and ready. Nothing here is changed by use."""

    base: BaseModel
    stack: Stack
    base_source: Source
    sources: tuple[Source, ...]

    @classmethod
    def open(
        cls,
        base: str | Path,
        modules: str | Path | Sequence[str | Path],
        *,
        device: str = "cpu",
        dtype: Any = None,
        quantisation: str | None = None,
        device_map: Any = None,
    ) -> Workbench:
        """Load a base model and modules from folders, or from the Hub by their names.

        dtype, quantisation and device_map are as in `base_model.load`.
        """
        names = [modules] if isinstance(modules, str | Path) else list(modules)
        base_source = fetched.base(str(base))
        sources = fetched.modules([str(name) for name in names], base_source)
        return cls.of(
            base_source,
            sources,
            device=device,
            dtype=dtype,
            quantisation=quantisation,
            device_map=device_map,
        )

    @classmethod
    def of(
        cls,
        base: Source,
        modules: Sequence[Source],
        *,
        device: str = "cpu",
        dtype: Any = None,
        quantisation: str | None = None,
        device_map: Any = None,
    ) -> Workbench:
        """The same from files that are here; DoesNotFit before a model is loaded in vain."""
        if quantisation is None and device_map is None:
            _check_room(base, modules, device)
        loaded = base_model.load(
            base.folder,
            device=device,
            dtype=dtype,
            quantisation=quantisation,
            device_map=device_map,
        )
        made = stack.load(
            [source.folder for source in modules], loaded, names=[each.name for each in modules]
        )
        return cls(loaded, made, base, tuple(modules))

    def __len__(self) -> int:
        return len(self.stack)

    def rank(
        self,
        examples: Given,
        *,
        template: str = "{input}",
        chat: bool | None = None,
        best: int | None = None,
        on_progress: Progress | None = None,
    ) -> Screening:
        """Each module alone on the examples: their losses, and an order from the best on.

        best: only so many are wanted, as in `screening.screen_folders`; of many others a first look
        in 8 bits is then enough.
        """
        prompt, settings = Template(template, chat), SearchConfig()
        objective = Objective.of(self.base, self.stack, _checked(examples), prompt, settings)
        return screening.screen(objective, on_progress, best=best)

    def best(self, examples: Given, count: int, **how: Any) -> Workbench:
        """The same with only the modules that do best alone on the examples."""
        if count < 1:
            raise CommonsError(f"How many is {count}; it must be 1 or more.")
        return self.only(self.rank(examples, best=count, **how).top(count))

    def evaluate(
        self,
        held_out: Given,
        template: Template | None = None,
        options: Sequence[str] = (),
        *,
        on_progress: Progress | None = None,
    ) -> dict[str, Score]:
        """How many answers of the base model alone, and of each module alone, are exactly right."""
        pairs, singles = _pairs(held_out), np.eye(len(self.stack))
        methods = {BASE: None, **dict(zip(self.stack.names, singles, strict=True))}
        answers: dict[str, list[str]] = {name: [] for name in methods}
        room = evaluate.answer_room(self.base, pairs)
        for start in range(0, len(pairs), AT_ONCE):
            some = [each.input for each in pairs[start : start + AT_ONCE]]
            found = evaluate.predict_each(
                self.base,
                self.stack,
                list(methods.values()),
                some,
                template or Template(),
                answer_options=options,
                max_new_tokens=room,
            )
            for name, more in zip(methods, found, strict=True):
                answers[name] += more
            if on_progress is not None:
                on_progress(start + len(some), len(pairs))
        targets = [each.target for each in pairs]
        return {name: evaluate.score(said, targets) for name, said in answers.items()}

    def only(self, places: Sequence[int]) -> Workbench:
        """The same with only these modules, by their places, in this order."""
        return replace(
            self,
            stack=self.stack.subset(list(places)),
            sources=tuple(self.sources[place] for place in places),
        )

    def compose(
        self,
        examples: Given,
        *,
        template: str = "{input}",
        chat: bool | None = None,
        options: Sequence[str] = (),
        preset: str = "recommended",
        on_generation: Callable[[Generation], None] | None = None,
        **settings: Any,
    ) -> Composed:
        """Search for weights that fit the examples.

        settings: whatever SearchConfig has (budget, seed, combination, optimiser, rank, ...), in
        place of the preset's. on_generation is called after each generation.
        """
        return self.compose_with(
            config.preset_with(preset, settings),
            _checked(examples),
            Template(template, chat),
            options,
            on_generation,
        )

    def compose_with(
        self,
        settings: SearchConfig,
        examples: Sequence[Example],
        template: Template,
        options: Sequence[str] = (),
        on_generation: Callable[[Generation], None] | None = None,
    ) -> Composed:
        objective = Objective.of(
            self.base, self.stack, examples, template, settings, options=options
        )
        last = None
        modules = len(self.stack)
        weights = modules * count(settings.blocks)
        for last in search(objective, weights, settings, modules=modules):
            if on_generation is not None:
                on_generation(last)
        assert last is not None  # a budget is at least one evaluation
        if not math.isfinite(last.best_loss):
            raise CommonsError(
                "Every candidate's loss was infinite or not a number, so there is nothing to "
                "choose. Check the examples, or choose other modules."
            )
        made = recipe.build(
            self.spec(settings, examples, template, options), last.best_weights.tolist()
        )
        evidence = {
            "loss": last.best_loss,
            "evaluations": last.evaluations,
            "not_finite": objective.not_finite,
            "trace": last.digest,
            "environment": self.base.fingerprint(),
            "load": [report.to_json() for report in self.stack.reports],
        }
        return Composed(self, made.with_evidence(evidence), tuple(examples), template)

    def spec(
        self,
        settings: SearchConfig,
        examples: Sequence[Example],
        template: Template,
        options: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The recipe's spec; what lies in folders is named by its folder and content."""
        chat = chat_of(
            template, self.base.tokenizer, is_encoder_decoder=self.base.is_encoder_decoder
        )
        base = {"repo": self.base_source.name, "revision": self.base_source.revision}
        if self.base_source.revision == LOCAL:
            base["sha256"] = content_hash(self.base_source.folder)
        return recipe.make_spec(
            base_model=base,
            ingredients=[
                {
                    "repo": source.name,
                    "revision": source.revision,
                    "sha256": file_hash(source.folder / WEIGHTS_NAME),
                }
                for source in self.sources
            ],
            config=settings,
            template=template.text,
            examples_hash=recipe.examples_hash(examples),
            chat_template=None if chat is None else chat.hash,
            answer_options=options,
        )

    def composed_of(self, made: Recipe) -> Composed:
        """A recipe that was found before, with these modules in its order."""
        template = Template(made.spec["template"], bool(made.spec.get("chat_template")))
        return Composed(self, made, (), template)


@dataclass(frozen=True)
class Composed:
    """What was found: a recipe, ready to answer, to be measured, and to be saved as an adapter."""

    bench: Workbench = field(repr=False)
    recipe: Recipe
    examples: tuple[Example, ...] = field(repr=False)
    template: Template = field(repr=False)

    @property
    def weights(self) -> dict[str, float]:
        """Each module's weight (the mean over blocks), largest first."""
        numbers = recipe.module_weights(self.recipe.spec, self.recipe.weights)
        pairs = zip(self.bench.stack.names, numbers, strict=True)
        return dict(sorted(pairs, key=lambda pair: -abs(pair[1])))

    @property
    def settings(self) -> SearchConfig:
        return recipe.config_of(self.recipe.spec)

    def answer(self, inputs: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """What the composed adapter answers, as it would be saved."""
        stack, weights, combination, blocks = self._handed_out()
        room = evaluate.answer_room(self.bench.base, self.examples)
        return evaluate.predict(
            self.bench.base,
            stack,
            weights,
            list(inputs),
            self.template,
            combination,
            blocks=blocks,
            answer_options=list(options) or self._options,
            max_new_tokens=room,
        )

    def score(self, held_out: Given) -> Score:
        """Exact matches on examples that the search has not seen."""
        pairs = _pairs(held_out)
        answers = self.answer([each.input for each in pairs])
        return evaluate.score(answers, [each.target for each in pairs])

    def with_scores(self, held_out: Given) -> Composed:
        """The same with its score, and the base model's, among the recipe's evidence."""
        base = self.bench.only([]).evaluate(held_out, self.template, self._options)[BASE]
        evidence = {
            **self.recipe.evidence,
            "zero_shot": base.to_json(),
            "composed": self.score(held_out).to_json(),
        }
        return replace(self, recipe=self.recipe.with_evidence(evidence))

    @property
    def _options(self) -> list[str]:
        return list(self.recipe.spec.get("answer_options", ()))

    def save(self, folder: str | Path, *, title: str = "") -> Path:
        """Write a PEFT adapter with its recipe and card, once PEFT has loaded it and computed the
        same. Whoever is stopped leaves no half of one."""
        out, bench = Path(folder), self.bench
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommonsError(
                f"Nothing can be written to {out}: {error.strerror}. Name another folder."
            ) from error
        with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as name:
            written = Path(name)
            repo = bench.base_source.repo
            made = finalise(
                self.recipe,
                bench.base,
                bench.stack,
                written,
                batch=self._batch(),
                base_model=repo,
                revision=bench.base_source.revision if repo else None,
            )
            evidence = {**self.recipe.evidence, "adapter": made.facts()}
            document = self.recipe.with_evidence(evidence).to_json()
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
            (written / "recipe.json").write_text(text + "\n", encoding="utf-8")
            (written / "README.md").write_text(
                card(
                    self.recipe,
                    title=title or out.resolve().name,
                    adapter=made.facts(),
                    snippet=_snippet(bench.base_source, bench.base.is_encoder_decoder),
                ),
                encoding="utf-8",
            )
            for path in sorted(written.iterdir()):
                path.replace(out / path.name)
        return out

    def _batch(self) -> Batch | None:
        """The examples that the adapter is compared on; a recipe alone brings none."""
        if not self.examples:
            return None
        base = self.bench.base
        return encode(
            self.examples,
            self.template,
            base.tokenizer,
            is_encoder_decoder=base.is_encoder_decoder,
        )

    def _handed_out(self) -> tuple[Stack, Array, str, str]:
        """The adapter as it is saved: cut down in rank where the settings say so."""
        settings = self.settings
        return handed_out(
            self.recipe.weights,
            self.bench.stack,
            settings.combination,
            blocks=settings.blocks,
            rank=settings.rank,
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{_escaped(name)}</td><td style='text-align:right'>{weight:+.3f}</td></tr>"
            for name, weight in self.weights.items()
        )
        loss = self.recipe.evidence.get("loss")
        head = f"<p>Recipe {self.recipe.id[:12]}" + ("" if loss is None else f", loss {loss:.4f}")
        return f"{head}</p><table><tr><th>module</th><th>weight</th></tr>{rows}</table>"


def content_hash(folder: Path) -> str:
    """One hash over a model's weights and tokenizer, in order of name."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        total.update(f"{path.name} {file_hash(path)}\n".encode())
    return total.hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(examples: Given) -> list[Example]:
    """What may enter a search: the same rules as on the site and the command line."""
    pairs = _pairs(examples)
    check(pairs)
    return pairs


def _pairs(examples: Given) -> list[Example]:
    return [_pair(each, line) for line, each in enumerate(examples, 1)]


def _pair(given: Any, line: int) -> Example:
    """A row of a JSONL file serves as well as a pair; a text is none."""
    if isinstance(given, Example):
        return given
    if isinstance(given, Mapping):
        given = [given.get("input"), next((given[k] for k in TARGET_NAMES if k in given), None)]
    is_pair = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
    if not is_pair or not all(isinstance(text, str) for text in given):
        raise BadExamples(
            f"Example {line} is {given!r:.80}; give pairs of texts, such as ('big', 'small').",
            line=line,
        )
    return Example(*given)


def _check_room(base: Source, modules: Sequence[Source], device: str) -> None:
    """Whether the base model, the modules and one short example fit at all."""
    try:
        stated = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # loading says what is wrong with it
    if not isinstance(stated, dict):
        return
    place = torch.device(device)
    number = 2 if place.type == "cuda" else 4
    ranks = [adapter_file.read_config(module.folder).r for module in modules]
    need = memory.needed(
        stated,
        modules=len(modules),
        rank=max(ranks, default=1),
        tokens=32,
        labels=8,
        bytes_per_number=number,
    )
    memory.check_fits(need, chunk.free(place))


def _snippet(base: Source, is_encoder_decoder: bool) -> str:
    kind = "AutoModelForSeq2SeqLM" if is_encoder_decoder else "AutoModelForCausalLM"
    at = f", revision={base.revision!r}" if base.repo else ""
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {kind}, AutoTokenizer",
            "",
            f"model = {kind}.from_pretrained({base.repo or base.name!r}{at})",
            'model = PeftModel.from_pretrained(model, "path/to/this/folder")',
            f"tokenizer = AutoTokenizer.from_pretrained({base.repo or base.name!r}{at})",
        ]
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
