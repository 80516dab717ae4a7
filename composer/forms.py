"""Forms of tasks, compositions, publishing and trying. What they accept, services check again."""

from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict

from composer import recipe_import, services, task_writing
from composer.engine.config import (
    COMBINATIONS,
    OBJECTIVES,
    OPTIMISERS,
    PRESETS,
    REDUCTIONS,
    SELECTIONS,
    preset_with,
)
from composer.engine.errors import BadExamples, BadRecipe, CommonsError
from composer.engine.examples import Example
from composer.engine.prompt import Template
from composer.example_text import HELD_OUT, SHOTS, Problem, Row, as_text, parse_examples
from composer.models import Example as StoredExample
from composer.models import FewShotTask, Recipe, Search
from composer.module_choice import MOST_MODULES, Fit, ModuleChoice, modules_for
from composer.publishing import earlier_versions
from composer.search_checks import MOST_TEST_FOLDS
from composer.task_checks import find_problems, wrong_options
from hub_site.accounts.models import User
from modules.models import BaseModel, Collection, LoraModule

BLANK_ROWS = 5


def _lines(rows: int) -> forms.Textarea:
    return forms.Textarea({"rows": rows, "cols": False, "dir": "auto"})


class ExampleRow:
    """One row of the form: what was typed, and what is wrong with it."""

    def __init__(self, number: int, given: str = "", wanted: str = "") -> None:
        self.number = number
        self.input = given
        self.target = wanted
        self.input_error = ""
        self.target_error = ""


class TaskForm(forms.Form):
    """A few-shot task. Examples come as rows (`shots_input` and `shots_target`, repeated), as
    pasted lines (`shots_text`), or both; held-out ones likewise, with `held_out_` in front.

    `form.shot_rows` and `form.held_out_rows` are the rows to draw; an `add_row` button of the
    form asks for more of them: `TaskForm.with_more_rows(request.POST)`.
    """

    name = forms.CharField(
        max_length=120, help_text="Short, for your own list: “Opposites of adjectives”."
    )
    description = forms.CharField(required=False, max_length=2000, widget=_lines(2))
    base_model = forms.ModelChoiceField(
        BaseModel.objects.none(),
        empty_label=None,
        help_text="The model that the modules were made for. Only its own modules can be mixed.",
    )
    template = forms.CharField(
        label="Instruction",
        required=False,
        max_length=2000,
        strip=False,
        widget=_lines(2),
        initial="{input}",
        help_text="The text around every input; {input} stands where the input goes. "
        "Leave it as it is to give the model the bare input.",
    )
    answer_options = forms.CharField(
        required=False,
        max_length=5000,
        widget=_lines(2),
        help_text="For a choice among fixed answers: one a line. The model then picks one of them.",
    )
    shots_text = forms.CharField(required=False, strip=False, widget=_lines(5))
    held_out_text = forms.CharField(
        label="Held-out examples", required=False, strip=False, widget=_lines(5)
    )

    def __init__(
        self,
        data: QueryDict | None = None,
        *,
        task: FewShotTask | None = None,
        rows: Mapping[str, list[ExampleRow]] | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = task
        start = {**_initial(task), **(initial or {})}
        super().__init__(data, initial=start)
        self.problems: list[Problem] = []
        models = BaseModel.objects.usable().order_by("name")
        self.fields["base_model"].queryset = models
        self.fields["base_model"].initial = models.first()
        if data is not None:
            rows = {split: _typed_rows(data, split) for split in (SHOTS, HELD_OUT)}
        elif rows is None:
            rows = {SHOTS: _stored_rows(task), HELD_OUT: []}
        self._rows = {split: list(found) for split, found in rows.items()}

    @classmethod
    def with_more_rows(cls, data: QueryDict, *, task: FewShotTask | None = None) -> "TaskForm":
        """The form as it was typed, unchecked, with more empty rows."""
        rows = {split: _typed_rows(data, split) for split in (SHOTS, HELD_OUT)}
        for found in rows.values():
            found.extend(ExampleRow(len(found) + extra) for extra in range(1, BLANK_ROWS + 1))
        typed = {name: data[name] for name in cls.base_fields if name in data}
        return cls(task=task, rows=rows, initial=typed)

    @property
    def shot_rows(self) -> list[ExampleRow]:
        return _with_blanks(self._rows[SHOTS])

    @property
    def held_out_rows(self) -> list[ExampleRow]:
        return self._rows[HELD_OUT]

    @property
    def shots_problems(self) -> list[str]:
        """Problems that no row shows: pasted lines, and the list as a whole."""
        return [str(p) for p in self.problems if p.split == SHOTS and p.place != "row"]

    @property
    def held_out_problems(self) -> list[str]:
        return [str(p) for p in self.problems if p.split == HELD_OUT and p.place != "row"]

    def clean_template(self) -> str:
        template = self.cleaned_data["template"] or "{input}"
        try:
            Template(template)
        except BadExamples as error:
            raise ValidationError(error.user_message) from error
        return template

    def clean_answer_options(self) -> list[str]:
        options = [line.strip() for line in self.cleaned_data["answer_options"].splitlines()]
        options = [option for option in options if option]
        if message := wrong_options(options):
            raise ValidationError(message)
        return options

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        shots, held_out = self._read(SHOTS), self._read(HELD_OUT)
        unread = bool(self.problems)
        found = find_problems(
            shots,
            held_out,
            base_model=cleaned.get("base_model"),
            template=cleaned.get("template", "{input}"),
            answer_options=cleaned.get("answer_options", []),
        )
        # A paste that cannot be read is one mistake, not also a lack of examples.
        self.problems += [p for p in found if p.number or not unread]
        for problem in self.problems:
            self._show(problem)
        cleaned["shots"] = [Example(row.input, row.target) for row in shots]
        cleaned["held_out"] = [Example(row.input, row.target) for row in held_out]
        return cleaned

    def save(self, user: User) -> FewShotTask:
        fields = {
            name: self.cleaned_data[name]
            for name in (
                "name", "description", "base_model", "template", "answer_options", "shots",
                "held_out",
            )
        }  # fmt: skip
        if self.task:
            return task_writing.update_task(self.task, **fields)
        return task_writing.create_task(user=user, **fields)

    def _read(self, split: str) -> list[Row]:
        typed = [
            Row(row.input.strip(), row.target.strip(), row.number)
            for row in self._rows[split]
            if row.input.strip() or row.target.strip()
        ]
        pasted, problems = parse_examples(self.cleaned_data.get(f"{split}_text", ""), split)
        self.problems += problems
        return typed + pasted

    def _show(self, problem: Problem) -> None:
        if problem.place == "row":
            row = self._rows[problem.split][problem.number - 1]
            if problem.field == "target":
                row.target_error = row.target_error or problem.message
            else:
                row.input_error = row.input_error or problem.message
        self.add_error(f"{problem.split}_text", str(problem))


class ComposeForm(forms.Form):
    """How to search. Settings left empty keep the preset's value."""

    preset = forms.ChoiceField(choices=[(name, name) for name in PRESETS], initial="recommended")
    how = forms.ChoiceField(
        choices=[
            ("", "as the preset says"),
            ("all", "all that fit"),
            ("ranked", "those that do best alone on the examples"),
            ("random", "some, drawn at random"),
            ("hand", "those I choose"),
            ("tag", "those with a tag"),
            ("collection", "those of a collection"),
        ],
        required=False,
    )
    count = forms.IntegerField(
        label="How many",
        required=False,
        min_value=1,
        max_value=MOST_MODULES,
        help_text="Of the best, or of those drawn. 20 when left empty.",
    )
    draw_seed = forms.IntegerField(
        label="Seed of the draw", required=False, min_value=0, max_value=2**31 - 1
    )
    modules = forms.ModelMultipleChoiceField(LoraModule.objects.none(), required=False)
    tag = forms.CharField(required=False, max_length=60)
    collection = forms.CharField(required=False, max_length=200)

    test_folds = forms.IntegerField(
        label="Folds",
        required=False,
        min_value=0,
        max_value=MOST_TEST_FOLDS,
        help_text="Without held-out examples: each part of your examples is left out once, and all "
        "is done again without it. 0 measures nothing.",
    )
    # What the choice of modules was taken from: "search:ID" or "recipe:DIGEST".
    remixed = forms.CharField(required=False, max_length=80, widget=forms.HiddenInput)
    budget = forms.IntegerField(
        required=False, min_value=1, help_text="How many mixtures may be tried."
    )
    seed = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=2**53 - 1,
        help_text="The same seed finds the same weights.",
    )
    combination = forms.ChoiceField(
        choices=[("", "")],
        required=False,
        help_text="sum adds each module's effect exactly; lorahub mixes the factors as published; "
        "linear is PEFT's own.",
    )
    objective = forms.ChoiceField(
        choices=[("", "")],
        required=False,
        help_text="paper: loss + penalty · Σ|w|; reference: as LoraHub's own code computes it; "
        "options: how unlikely the right answer is among the task's; exact_match: the share of "
        "answers that come out wrong.",
    )
    reduction = forms.ChoiceField(
        choices=[("", "")],
        required=False,
        help_text="The loss is the mean over all tokens, or over examples.",
    )
    x0 = forms.FloatField(label="Start", required=False, help_text="Every weight's first value.")
    sigma = forms.FloatField(
        label="First step", required=False, min_value=1e-6, help_text="How far the search looks."
    )
    bound = forms.FloatField(
        required=False, min_value=1, help_text="No weight grows larger than this."
    )
    penalty = forms.FloatField(required=False, min_value=0, help_text="What a weight's size costs.")
    population = forms.IntegerField(
        required=False, min_value=4, help_text="Mixtures a round; cmaes tries them side by side."
    )
    optimiser = forms.ChoiceField(
        choices=[("", "")],
        required=False,
        help_text="cobyla and cmaes need no gradients; random is for comparison; lbfgs uses "
        "gradients, each counted as three mixtures. Where exact matches are counted, cmaes is "
        "usual.",
    )
    restarts = forms.IntegerField(
        required=False, min_value=0, help_text="How often cmaes begins anew once it has settled."
    )
    blocks = forms.CharField(
        required=False,
        max_length=9,
        help_text="all: one weight a module. sides: one for the encoder, one for the decoder. "
        "layers:4: one for each quarter of the layers.",
    )
    selection = forms.ChoiceField(
        choices=[("", "")],
        required=False,
        help_text="The best is chosen on the examples searched with, on a part of them kept back "
        "for validation, or over folds.",
    )
    folds = forms.IntegerField(
        required=False, min_value=2, max_value=100, help_text="Into how many parts they are cut."
    )
    patience = forms.IntegerField(
        required=False, min_value=0, help_text="Rounds without a better mixture before it stops."
    )
    rank = forms.IntegerField(
        label="Adapter's rank",
        required=False,
        min_value=1,
        max_value=4096,
        help_text="sum only: cut the adapter down to this rank and score it again. Servers often "
        "take 16 at most. Empty keeps the exact one.",
    )

    SETTINGS = (
        "budget", "seed", "combination", "objective", "reduction", "x0", "sigma", "bound",
        "penalty", "population", "optimiser", "restarts", "blocks", "selection", "folds",
        "patience", "rank",
    )  # fmt: skip

    def __init__(self, data: Any = None, *, task: FewShotTask, user: User) -> None:
        super().__init__(data)
        self.task, self.user = task, user
        for name, values in (
            ("combination", COMBINATIONS),
            ("objective", OBJECTIVES),
            ("reduction", REDUCTIONS),
            ("optimiser", OPTIMISERS),
            ("selection", SELECTIONS),
        ):
            self.fields[name].choices = [
                ("", "as the preset says"),
                *((value, value) for value in values),
            ]
        self.fields["modules"].queryset = LoraModule.objects.visible_to(user).filter(
            base_model=task.base_model
        )

    @property
    def fits(self) -> list[Fit]:
        """The modules to choose from, with the reason beside each that does not fit."""
        return modules_for(self.task.base_model, self.user, self.combination_used)

    @property
    def overrides(self) -> dict[str, Any]:
        values = {name: self.cleaned_data.get(name) for name in self.SETTINGS}
        return {name: value for name, value in values.items() if value not in (None, "")}

    @property
    def choice(self) -> ModuleChoice | None:
        """None leaves the choice to the preset."""
        cleaned = self.cleaned_data
        if not cleaned.get("how"):
            return None
        return ModuleChoice(
            how=cleaned["how"],
            count=cleaned.get("count") or 20,
            seed=cleaned.get("draw_seed") or 0,
            modules=tuple(cleaned.get("modules") or ()),
            collection=cleaned.get("collection") if cleaned["how"] == "collection" else None,
            tag=cleaned.get("tag") or "",
        )

    def clean_remixed(self) -> Search | Recipe | None:
        """What can no longer be seen, or never could, is as good as not named."""
        kind, _, key = self.cleaned_data["remixed"].partition(":")
        try:
            if kind == "search":
                return Search.objects.visible_to(self.user).filter(pk=key).first()
        except ValidationError:  # not a uuid
            return None
        if kind == "recipe":
            return Recipe.objects.visible_to(self.user).with_digest(key).first()
        return None

    def clean_collection(self) -> Collection | None:
        if not (typed := self.cleaned_data["collection"]):
            return None
        owner, _, name = typed.partition("/")
        found = Collection.objects.visible_to(self.user).named(owner, name).first()
        if found is None:
            raise ValidationError(f"There is no collection {typed!r}. Choose another.")
        return found

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("how") == "hand" and not cleaned.get("modules"):
            self.add_error("modules", "Choose at least one module.")
        if cleaned.get("how") == "tag" and not cleaned.get("tag") and "tag" not in self.errors:
            self.add_error("tag", "Choose a tag.")
        names_none = not cleaned.get("collection") and "collection" not in self.errors
        if cleaned.get("how") == "collection" and names_none:
            self.add_error("collection", "Choose a collection.")
        if not self.errors:
            try:
                preset_with(cleaned["preset"], self.overrides)
            except CommonsError as error:
                add_commons_error(self, error)
        return cleaned

    def submit(self, *, idempotency_key: str | None = None) -> Any:
        """Queue the search; returns the job. May raise a CommonsError (see add_commons_error)."""
        return services.submit_job(
            task=self.task,
            user=self.user,
            preset=self.cleaned_data["preset"],
            modules=self.choice,
            overrides=self.overrides,
            test_folds=self.cleaned_data.get("test_folds") or 0,
            remixed=self.cleaned_data["remixed"],
            idempotency_key=idempotency_key,
        )

    @property
    def combination_used(self) -> str:
        preset = PRESETS.get(self["preset"].value() or "recommended", PRESETS["recommended"])
        chosen = self["combination"].value()
        return chosen if chosen in COMBINATIONS else preset().combination


class PublishForm(forms.Form):
    title = forms.CharField(max_length=120, help_text="What the adapter does, in a few words.")
    description = forms.CharField(
        required=False,
        max_length=2000,
        widget=_lines(4),
        help_text="For whom, from which examples, what it cannot do.",
    )
    show_examples = forms.BooleanField(
        required=False, label="Show the examples and the models' answers to everybody"
    )
    version_of = forms.ModelChoiceField(
        Recipe.objects.none(),
        required=False,
        label="A later version of",
        empty_label="no earlier recipe",
        help_text="The two pages will link to each other.",
    )

    def __init__(self, *args: Any, search: Search, user: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        earlier, likely = earlier_versions(search, user)
        field = self.fields["version_of"]
        field.queryset = Recipe.objects.filter(pk__in=[each.pk for each in earlier])
        self.initial.setdefault("version_of", likely)
        if not earlier:
            del self.fields["version_of"]


class RecipeImportForm(forms.Form):
    """A file, or the same as text."""

    file = forms.FileField(
        required=False,
        label="Recipe file",
        help_text="<code>recipe.json</code>, or an adapter that carries one: its zip, or its "
        "<code>adapter_model.safetensors</code>.",
    )
    text = forms.CharField(
        required=False, label="Or its text", strip=False, widget=_lines(4),
        help_text="What <code>recipe.json</code> holds.",
    )  # fmt: skip
    title = forms.CharField(
        required=False, max_length=120, help_text="What you call it here. A file has no title."
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        file, text = cleaned.get("file"), cleaned.get("text", "")
        if not self.errors and bool(file) == bool(text.strip()):
            raise forms.ValidationError("Bring a file or paste its text, one of the two.")
        if self.errors:
            return cleaned
        try:
            if file and file.size > recipe_import.MOST_OF_A_FILE:
                raise BadRecipe("This file is too large to be an adapter of a recipe.")
            read = recipe_import.read(file, file.name) if file else recipe_import.parse(text)
        except CommonsError as error:
            raise forms.ValidationError(error.user_message) from error
        return {**cleaned, "document": read}


class TryForm(forms.Form):
    input = forms.CharField(
        label="An input of your own",
        max_length=services.MOST_TRIAL_CHARACTERS,
        strip=False,
        widget=_lines(2),
    )


def add_commons_error(form: forms.Form, error: CommonsError) -> None:
    """Show a service's error at the form's field it names, or above the form."""
    shown = False
    for name, messages in error.fields.items():
        if name in form.fields:
            form.add_error(name, messages)
            shown = True
    if not shown:
        form.add_error(None, error.user_message)


def _initial(task: FewShotTask | None) -> dict[str, Any]:
    if task is None:
        return {}
    held_out = [[e.input, e.target] for e in task.pairs(StoredExample.HELD_OUT)]
    return {
        "name": task.name,
        "description": task.description,
        "base_model": task.base_model,
        "template": task.template,
        "answer_options": "\n".join(task.answer_options),
        "held_out_text": as_text(held_out),
    }


def _typed_rows(data: QueryDict, split: str) -> list[ExampleRow]:
    inputs, targets = data.getlist(f"{split}_input"), data.getlist(f"{split}_target")
    length = max(len(inputs), len(targets))
    inputs += [""] * (length - len(inputs))
    targets += [""] * (length - len(targets))
    pairs = zip(inputs, targets, strict=True)
    return [ExampleRow(number, *pair) for number, pair in enumerate(pairs, 1)]


def _stored_rows(task: FewShotTask | None) -> list[ExampleRow]:
    found: Iterable[Example] = task.pairs(StoredExample.SHOT) if task else []
    return [ExampleRow(number, e.input, e.target) for number, e in enumerate(found, 1)]


def _with_blanks(rows: list[ExampleRow]) -> list[ExampleRow]:
    """A few rows at least, and never none to write in."""
    while len(rows) < BLANK_ROWS or rows[-1].input or rows[-1].target:
        rows.append(ExampleRow(len(rows) + 1))
    return rows
