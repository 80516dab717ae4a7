from typing import Any

from allauth.account import forms as account_forms
from allauth.socialaccount import forms as social_forms
from django import forms

from hub_site.accounts import names
from hub_site.accounts.models import AccessToken, User

WHY_EMAIL = "To reset a lost password, and for notices if you ask for them. Nobody else sees it."


class WithoutPlaceholders:
    """allauth repeats each label inside its field, where it reads as if something were typed."""

    fields: dict[str, forms.Field]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.widget.attrs.pop("placeholder", None)


class LoginForm(WithoutPlaceholders, account_forms.LoginForm):
    def user_credentials(self) -> dict[str, str]:
        """No name has an @, and trying an address as a name too takes longer where it is known."""
        given: dict[str, str] = super().user_credentials()
        if "email" in given:
            given.pop("username", None)
        return given


class SignupForm(WithoutPlaceholders, account_forms.SignupForm):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["email"].help_text = WHY_EMAIL

    def validate_unique_email(self, value: str) -> str:
        """Never says that an address has an account, and makes one either way: the mail tells."""
        return names.check_address(value)


class SocialSignupForm(WithoutPlaceholders, social_forms.SignupForm):
    pass


class AddEmailForm(WithoutPlaceholders, account_forms.AddEmailForm):
    def clean_email(self) -> str:
        return names.check_address(super().clean_email())


class ChangePasswordForm(WithoutPlaceholders, account_forms.ChangePasswordForm):
    pass


class SetPasswordForm(WithoutPlaceholders, account_forms.SetPasswordForm):
    pass


class ResetPasswordForm(WithoutPlaceholders, account_forms.ResetPasswordForm):
    pass


class ResetPasswordKeyForm(WithoutPlaceholders, account_forms.ResetPasswordKeyForm):
    pass


class ReauthenticateForm(WithoutPlaceholders, account_forms.ReauthenticateForm):
    pass


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


class DeleteForm(forms.Form):
    """Nothing is chosen beforehand, and whoever asks shows once more that it is their account."""

    KEEP, DELETE = "keep", "delete"

    modules = forms.ChoiceField(
        choices=[(KEEP, "Leave them to the community"), (DELETE, "Delete them too")],
        widget=forms.RadioSelect,
        label="Your public modules",
        error_messages={"required": "Choose what happens to your public modules."},
    )
    password = forms.CharField(
        label="Your password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
    name = forms.CharField(label="Your user name", help_text="Type it to confirm.")

    def __init__(
        self, *args: Any, user: User, has_modules: bool, is_fresh: bool, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.user, self.is_fresh = user, is_fresh
        if not has_modules:
            del self.fields["modules"]
        del self.fields["name" if user.has_usable_password() else "password"]

    def clean_password(self) -> str:
        if not self.user.check_password(self.cleaned_data["password"]):
            raise forms.ValidationError("This is not your password. Type the one you sign in with.")
        return ""

    def clean_name(self) -> str:
        if self.cleaned_data["name"] != self.user.username:
            raise forms.ValidationError(f'Type "{self.user.username}", your own name.')
        if not self.is_fresh:
            raise forms.ValidationError(
                "You signed in a while ago. Sign out, sign in again, and come back within ten "
                "minutes: so nobody else deletes your account."
            )
        return ""
