from django import forms

from hub_site.accounts.models import AccessToken, User


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


class ProfileForm(forms.ModelForm):
    class Meta:
        model = User
        fields = ["bio"]
        labels = {"bio": "About you"}
        help_texts = {"bio": "Stands on your profile, for everybody to read. 500 characters."}
        widgets = {"bio": forms.Textarea(attrs={"rows": 3, "maxlength": 500})}


class NoticesForm(forms.ModelForm):
    class Meta:
        model = User
        fields = ["notify_by_email"]
        labels = {"notify_by_email": "Also send me each notice by e-mail"}
