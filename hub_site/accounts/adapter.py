"""How allauth signs people up and in here: names are namespaces, and guests keep their work."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from smtplib import SMTPException
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from allauth.socialaccount.providers.base import AuthProcess
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from composer.engine.errors import CommonsError
from hub_site.accounts import guests, names, services
from hub_site.accounts.models import User

logger = logging.getLogger(__name__)
ASKED_FOR_MORE = "may_push"  # in the session: not only a sign-in was asked for
mails = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mails")


@contextmanager
def _with_a_namespace(user: User) -> Iterator[None]:
    """What the body saves is kept only if the user's name can be owned too."""
    try:
        with transaction.atomic():
            yield
            services.own_namespace(user)
    except IntegrityError:  # somebody took the name since the form looked
        raise services.NameTaken(
            f'The name "{user.username}" is taken. Choose another one.'
        ) from None


class AccountAdapter(DefaultAccountAdapter):
    error_messages = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": "The user name or the password is not right.",
        "email_password_mismatch": "The address or the password is not right.",
        "enter_current_password": "This is not your password. Type the one you sign in with.",
        "incorrect_password": "This is not your password. Type the one you sign in with.",
        "too_many_login_attempts": "Too many wrong passwords. Wait five minutes, then try again.",
        "duplicate_email": "This is your address already.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return settings.REGISTRATION_OPEN

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
        if not commit:
            return super().save_user(request, user, form, commit=False)
        with _with_a_namespace(user):
            super().save_user(request, user, form)
        return user

    def pre_login(self, request: HttpRequest, user: User, **options: Any) -> HttpResponse | None:
        """Signing in to an account takes along what the guest of this session made."""
        if answer := super().pre_login(request, user, **options):
            return answer
        guest = _guest_of(request, (options.get("signal_kwargs") or {}).get("sociallogin"))
        if guest is not None and guest.pk != user.pk:
            guests.hand_over(guest, user)
        return None

    def logout(self, request: HttpRequest) -> None:
        """A guest who leaves has no way back, so nothing is kept."""
        guest = User.objects.filter(pk=request.user.pk, is_guest=True).first()
        super().logout(request)
        if guest is not None and not getattr(request, "guest_comes_along", False):
            guests.forget(guest)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """A mail server that is down must not take signing up down with it."""
        try:
            super().send_mail(template_prefix, email, context)
        except (OSError, SMTPException):
            logger.exception("The mail %s was not sent", template_prefix)
            self.request.mail_was_not_sent = True
            text = f"We could not send a mail to {email} just now. Please try again later."
            messages.error(self.request, text)

    def send_password_reset_mail(self, user: User, email: str, context: dict[str, Any]) -> None:
        """Beside the answer: neither a slow mail server nor one that is down may tell which
        addresses have accounts."""
        send = partial(super().send_mail, "account/email/password_reset_key", email, context)
        mails.submit(copy_context().run, _quietly, send)

    def send_confirmation_mail(
        self, request: HttpRequest, emailconfirmation: EmailConfirmationHMAC, signup: bool
    ) -> None:
        """Whose address it is already hears so; whoever gave it sees the same page as ever."""
        address = emailconfirmation.email_address
        if address.can_set_verified():
            super().send_confirmation_mail(request, emailconfirmation, signup)
        else:
            self.send_account_already_exists_mail(address.email)

    def add_message(self, request: HttpRequest, *args: Any, **options: Any) -> None:
        """Those of allauth's messages that say something the page does not."""
        template = options.get("message_template") or (args[1] if len(args) > 1 else "")
        sent = template == "account/messages/email_confirmation_sent.txt"
        if not (sent and getattr(request, "mail_was_not_sent", False)):
            super().add_message(request, *args, **options)

    def get_email_verification_redirect_url(self, email_address: EmailAddress) -> str:
        user = self.request.user
        if user.is_authenticated and not user.is_guest:
            return reverse("account_settings")
        url: str = super().get_email_verification_redirect_url(email_address)
        return url

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("account_settings")


class SocialAccountAdapter(DefaultSocialAccountAdapter):
    """Signing in with another site's account; the name there is only a suggestion here."""

    def new_user(self, request: HttpRequest, sociallogin: SocialLogin) -> User:
        return User()

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """allauth signs whoever is there out first: remember the guest, whose work comes along."""
        if request.session.pop(ASKED_FOR_MORE, False):
            _keep_token(request, sociallogin)
        guest = _guest_of(request)
        if guest is None:
            return
        if sociallogin.state.get("process") == AuthProcess.CONNECT:
            raise ImmediateHttpResponse(redirect("account_signup"))
        sociallogin.state["guest"] = guest.pk
        request.guest_comes_along = True

    def is_auto_signup_allowed(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        """What is not free here leads to a form that says so, never to another name."""
        return not name_problem(sociallogin.user.username) and not address_problem(sociallogin)

    def save_user(
        self, request: HttpRequest, sociallogin: SocialLogin, form: BaseForm | None = None
    ) -> User:
        with _with_a_namespace(sociallogin.user):
            return super().save_user(request, sociallogin, form)


def _keep_token(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """The user let this site push to the Hub: the token of this sign-in may do that."""
    from modules.on_hub import accounts, keeping

    token = sociallogin.token
    if not token or not request.user.is_authenticated or request.user.is_guest:
        return
    try:
        accounts.connect(
            request.user, token.token, refresh_token=token.token_secret, expires_at=token.expires_at
        )
    except CommonsError as error:
        messages.error(request, f"The account was not connected: {error.user_message}")
    else:
        keeping.retry_of_user(request.user)
    raise ImmediateHttpResponse(redirect("modules:hub_account"))


def _quietly(send: Callable[[], None]) -> None:
    try:
        send()
    except Exception:
        logger.exception("A mail was not sent")


def name_problem(name: str) -> str:
    """Why this name cannot be taken, or "" when it can."""
    try:
        names.check(name)
        names.check_free(name)
    except ValidationError as error:
        return " ".join(error.messages)
    return ""


def address_problem(sociallogin: SocialLogin) -> str:
    """Told only to whom the other site vouches for the address: it is theirs here too."""
    for given in sociallogin.email_addresses:
        if given.verified and EmailAddress.objects.is_verified(given.email):
            return f"{given.email} is the confirmed address of an account here."
    return ""


def _guest_of(request: HttpRequest, sociallogin: SocialLogin | None = None) -> User | None:
    """The guest who sits there, or did until signing in elsewhere began."""
    pk = request.user.pk or (sociallogin.state.get("guest") if sociallogin else None)
    return User.objects.filter(pk=pk, is_guest=True).first() if pk else None
