"""Forms of reports and collections."""

from __future__ import annotations

from django import forms

from modules.models import Collection, Report


class ReportForm(forms.Form):
    reason = forms.ChoiceField(
        label="What is wrong?", choices=Report.REASONS, widget=forms.RadioSelect
    )
    text = forms.CharField(
        label="In your words",
        required=False,
        max_length=2000,
        widget=forms.Textarea({"rows": 5, "cols": False, "dir": "auto"}),
        help_text="What should a moderator look at? Give links where they help.",
    )

    def clean_text(self) -> str:
        text: str = self.cleaned_data["text"]
        if self.data.get("reason") == "other" and not text.strip():
            raise forms.ValidationError("Say what is wrong, or choose one of the reasons above.")
        return text


class CollectionForm(forms.Form):
    title = forms.CharField(max_length=120, help_text="“Modules for short questions”, for example.")
    description = forms.CharField(
        required=False,
        max_length=2000,
        widget=forms.Textarea({"rows": 3, "cols": False, "dir": "auto"}),
        help_text="What belongs in it, and what it is for.",
    )
    visibility = forms.ChoiceField(
        label="Who sees it",
        choices=[
            (Collection.PUBLIC, "Everybody"),
            (Collection.PRIVATE, "Only you"),
        ],
        widget=forms.RadioSelect,
        initial=Collection.PUBLIC,
    )


class NoteForm(forms.Form):
    note = forms.CharField(required=False, max_length=300)
