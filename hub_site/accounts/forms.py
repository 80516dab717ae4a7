from django import forms

from hub_site.accounts.models import AccessToken


class TokenForm(forms.ModelForm):
    class Meta:
        model = AccessToken
        fields = ["name", "scope"]
        widgets = {"scope": forms.RadioSelect}
        labels = {"name": "Name", "scope": "Scope"}
        help_texts = {
            "name": "Where you will use it, for example “laptop”.",
            "scope": "A read token sees what you see; a write token also makes and changes things.",
        }

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.fields["scope"].choices = AccessToken._meta.get_field("scope").choices
        self.fields["scope"].initial = AccessToken.READ
