"""How allauth signs people up and in here: names are namespaces, and guests keep their work."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.db import IntegrityError, transaction
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse

from hub_site.accounts import guests, names, services
from hub_site.accounts.models import User


class AccountAdapter(DefaultAccountAdapter):
    def clean_username(self, username: str, shallow: bool = False) -> str:
        username = username.strip()
        names.check(username)
        if not shallow:
            names.check_free(username)
        return username

    def new_user(self, request: HttpRequest) -> User:
        """A guest who signs up becomes the account: same row, so tasks and jobs stay."""
        if request.user.is_authenticated and request.user.is_guest:
            return User.objects.get(pk=request.user.pk)
        return User()

    def save_user(
        self, request: HttpRequest, user: User, form: BaseForm, commit: bool = True
    ) -> User:
        user.is_guest = False
        try:
            with transaction.atomic():
                super().save_user(request, user, form, commit=commit)
                if commit:
                    services.own_namespace(user)
        except IntegrityError:  # somebody took the name since the form looked
            raise services.NameTaken(
                f'The name "{user.username}" is taken. Choose another one.'
            ) from None
        return user

    def pre_login(self, request: HttpRequest, user: User, **options: Any) -> HttpResponse | None:
        """Signing in to an account takes along what the guest of this session made."""
        if answer := super().pre_login(request, user, **options):
            return answer
        visitor = request.user
        if visitor.is_authenticated and visitor.is_guest and visitor.pk != user.pk:
            guests.hand_over(User.objects.get(pk=visitor.pk), user)
        return None

    def logout(self, request: HttpRequest) -> None:
        """A guest who leaves has no way back, so nothing is kept."""
        guest = User.objects.filter(pk=request.user.pk, is_guest=True).first()
        super().logout(request)
        if guest is not None:
            guests.forget(guest)
