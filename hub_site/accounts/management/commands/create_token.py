"""manage.py create_token USER --scope write: print a new token, once."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from composer.engine.errors import CommonsError
from hub_site.accounts import tokens
from hub_site.accounts.models import User


class Command(BaseCommand):
    help = "Make an access token for a user and print it. It cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="the user's name")
        parser.add_argument("--scope", choices=tokens.SCOPES, default="read")
        parser.add_argument("--name", default="command line", help="what the token is for")

    def handle(self, *, user: str, scope: str, name: str, **options: Any) -> None:
        owner = User.objects.filter(username=user).first()
        if owner is None:
            raise CommandError(f'There is no user "{user}".')
        try:
            _, plain = tokens.create_token(owner, name=name, scope=scope)
        except CommonsError as error:
            raise CommandError(error.user_message) from None
        self.stdout.write(plain)
