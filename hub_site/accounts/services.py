"""What happens to accounts, whoever asks."""

from django.db import IntegrityError, transaction

from composer.engine.errors import CommonsError
from hub_site.accounts import names
from hub_site.accounts.models import Namespace, User


class NameTaken(CommonsError):
    code = "name_taken"
    status = 409


@transaction.atomic
def own_namespace(user: User) -> Namespace:
    """The namespace of the user's name, made if it is not there."""
    names.check(user.username)
    try:
        with transaction.atomic():
            space, _ = Namespace.objects.get_or_create(
                user=user, defaults={"name": user.username, "kind": Namespace.USER}
            )
    except IntegrityError:
        raise NameTaken(f'The name "{user.username}" is taken. Choose another one.') from None
    return space
