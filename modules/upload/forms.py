"""What an author is asked beside the files: only what README.md does not say already."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.urls import reverse_lazy

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from modules import cards, licences, services
from modules.cards import Card, Facts
from modules.models import Repo
from modules.on_hub import keeping
from modules.on_hub.forms import add_place
from modules.repos import gate
from modules.upload.staging import Staged

VISIBILITY = [
    (Repo.PUBLIC, "Public: everybody may find, download and mix it, unless you gate it"),
    (Repo.PRIVATE, "Private: only you see it"),
]
OPEN = "open"
GATES = [
    (OPEN, "everybody who sees it"),
    (Repo.AUTO, "whoever asks: they have access at once, and you see who they are"),
    (Repo.MANUAL, "whom you let in: you answer every request"),
]
LANGUAGE_HELP = "As a code: en, de, zh. Several with commas between them."


def _lines(rows: int, **more: Any) -> forms.Textarea:
    return forms.Textarea(attrs={"rows": rows, **more})


class TagsField(forms.CharField):
    """Tags with commas between them, as a tuple. The page has a datalist for suggestions."""

    def __init__(self, **options: Any) -> None:
        suggesting = {
            "list": "tag-options",
            "autocomplete": "off",
            "hx-get": reverse_lazy("modules:tag_suggest"),
            "hx-trigger": "input changed delay:150ms",
            "hx-target": "#tag-options",
        }
        options.setdefault("widget", forms.TextInput(attrs=suggesting))
        options.setdefault("help_text", f"With commas between them, {cards.MOST_TAGS} at most.")
        super().__init__(required=False, max_length=1300, **options)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list | tuple) else value

    def clean(self, value: Any) -> tuple[str, ...]:
        text = super().clean(value)
        tags = tuple(dict.fromkeys(filter(None, (" ".join(t.split()) for t in text.split(",")))))
        if len(tags) > cards.MOST_TAGS:
            raise forms.ValidationError(f"{cards.MOST_TAGS} tags at most; you gave {len(tags)}.")
        if wrong := next((tag for tag in tags if not cards.TAG.fullmatch(tag)), None):
            raise forms.ValidationError(
                f"“{wrong}” cannot be a tag. Use letters, digits, spaces and . : / + - , 60 "
                "characters at most."
            )
        return tags


class FactsForm(forms.Form):
    """The facts of a card, each field named as in `cards.Facts`."""

    description = forms.CharField(
        label="What it does",
        required=False,
        max_length=5000,
        widget=_lines(3),
        help_text="The first sentence stands in lists: what comes in, what comes out.",
    )
    tags = TagsField()
    task = forms.CharField(
        required=False,
        max_length=60,
        widget=forms.TextInput(attrs={"list": "tasks"}),
        help_text="One word or two for the kind of work: translation, summarization, antonyms.",
    )
    licence = forms.ChoiceField(required=False, choices=licences.choices)
    language = forms.CharField(required=False, max_length=40, help_text=LANGUAGE_HELP)
    training_data = forms.CharField(
        required=False,
        max_length=5000,
        widget=_lines(3),
        help_text="What it was trained on, how much of it, where it came from.",
    )
    not_for = forms.CharField(
        label="What it is not for",
        required=False,
        max_length=5000,
        widget=_lines(3),
        help_text="What it cannot do, and what nobody should use it for.",
    )

    tasks = cards.PIPELINES

    def ask_only(self, names: set[str]) -> None:
        for name in FactsForm.base_fields:
            if name not in names:
                del self.fields[name]

    @property
    def questions(self) -> list[forms.BoundField]:
        return [self[name] for name in FactsForm.base_fields if name in self.fields]

    @property
    def facts(self) -> Facts:
        given = {name: self.cleaned_data.get(name) for name in FactsForm.base_fields}
        return Facts(**{name: value for name, value in given.items() if value})


class NewModuleForm(FactsForm):
    name = forms.CharField(max_length=96)
    visibility = forms.ChoiceField(
        choices=VISIBILITY, initial=Repo.PUBLIC, widget=forms.RadioSelect
    )

    place = forms.ChoiceField(label="Where its files are kept", widget=forms.RadioSelect)

    def __init__(self, data: Any, *, user: User, staged: Staged) -> None:
        super().__init__(data, initial={"name": suggested_name(staged)})
        self.user, self.staged = user, staged
        if len(places := keeping.places(user)) > 1:
            add_place(self, places, keeping.default_place())
        else:
            del self.fields["place"]
        self.fields["name"].help_text = (
            f"The last part of its address, /{user.namespace.name}/…: letters, digits, dots and "
            "dashes."
        )
        self.fields["visibility"].help_text = (
            "Should people ask before they download it? Upload it as private, gate it in its "
            "settings, and make it public there."
        )
        self.ask_only(cards.missing(staged.card))

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        try:
            services.check_free(self.user.namespace, name)
        except CommonsError as error:
            raise forms.ValidationError(error.user_message) from error
        return name


class NewVersionForm(FactsForm):
    message = forms.CharField(
        label="What is new in this version",
        required=False,
        max_length=2000,
        widget=_lines(2),
        help_text="The first line is the version's title in the history.",
    )

    def __init__(self, data: Any, *, staged: Staged) -> None:
        super().__init__(data)
        self.ask_only(cards.missing(staged.card))


class EditForm(FactsForm):
    """The same facts for a card that exists: what stands here is what README.md will say."""

    body = forms.CharField(
        label="The card",
        required=False,
        max_length=cards.LIMIT,
        strip=False,
        widget=_lines(16, spellcheck="true"),
        help_text="Markdown: what it does, training data, what it is not for.",
    )

    KEYS = ("description", "tags", "task", "licence", "language")

    def __init__(self, data: Any = None, *, card: Card, text: str) -> None:
        head, body = cards.split(text)
        self.card, self.text = card, text
        self.said = cards.front_matter(text)
        self.summary = cards.one_line(self.said.get("summary"))
        initial = {
            "description": self.summary,
            "tags": card.tags,
            "task": card.task,
            "licence": card.licence,
            "language": card.language,
            "body": body,
        }
        super().__init__(data, initial=initial)
        self.ask_only(set(self.KEYS))
        self.fields["description"] = forms.CharField(
            label="In one line",
            required=False,
            max_length=300,
            widget=forms.TextInput(attrs={"placeholder": card.summary}),
            help_text="For lists. Left empty, the card's first paragraph stands there.",
        )
        licence = self.fields["licence"]
        if card.licence and card.licence not in licences.KNOWN:
            licence.choices = [(card.licence, card.licence), *licences.choices()]

    @property
    def changes(self) -> dict[str, Any]:
        """Keys of the front matter that differ now; None takes one away."""
        given = self.cleaned_data
        changes: dict[str, Any] = {}
        if given["description"] != self.summary:
            changes["summary"] = given["description"] or None
        if given["licence"] != self.card.licence:
            changes |= {"license": given["licence"] or None}
            changes |= {"licence": None} if "licence" in self.said else {}
        if given["language"] != self.card.language:
            changes["language"] = cards.one_or_more(given["language"]) or None
        if given["tags"] != self.card.tags:
            changes["tags"] = [*given["tags"], *cards.machine_tags(self.said)] or None
        if given["task"] != self.card.task:
            changes |= {"task": None, "pipeline_tag": None}
            if given["task"]:
                key = "pipeline_tag" if given["task"] in cards.PIPELINES else "task"
                changes[key] = given["task"]
        return changes


class RenameForm(forms.Form):
    name = forms.CharField(max_length=96, label="New name")


class VisibilityForm(forms.Form):
    visibility = forms.ChoiceField(choices=VISIBILITY, widget=forms.RadioSelect)


class GateForm(forms.Form):
    """A form that came without an answer opens no gate: open has a word of its own here."""

    gated = forms.ChoiceField(choices=GATES, widget=forms.RadioSelect)

    def clean_gated(self) -> str:
        gated: str = self.cleaned_data["gated"]
        return gate.OPEN if gated == OPEN else gated


class GrantForm(forms.Form):
    user = forms.CharField(
        max_length=150,
        label="User name",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )


class DeleteForm(forms.Form):
    confirm = forms.CharField(
        max_length=200,
        label="Type its name to delete it",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: Any = None, *, repo: Repo) -> None:
        super().__init__(data)
        self.repo = repo

    def clean_confirm(self) -> str:
        typed: str = self.cleaned_data["confirm"].strip()
        if typed not in (self.repo.name, str(self.repo)):
            raise forms.ValidationError(f"Type {self.repo.name} exactly as it is written.")
        return typed


def suggested_name(staged: Staged) -> str:
    """From the card's title or the zip's name, as far as it makes a name."""
    for text in (staged.card.title, staged.name):
        name = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("._-")[:96]
        try:
            services.check_repo_name(name)
        except CommonsError:
            continue
        return name
    return ""
