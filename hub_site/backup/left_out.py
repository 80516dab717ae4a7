"""What a backup does not hold, in words: whoever restores it has to bring these."""

from __future__ import annotations

from pathlib import Path

from hub_site import sealed


def left_out() -> list[str]:
    """Of this site, as its database is read now."""
    from modules.models import BaseModel, HubAccount

    found = [_key(HubAccount.objects.count())]
    folders = BaseModel.objects.filter(source=BaseModel.FOLDER).values_list("folder", flat=True)
    found += [f"The base model in {folder}, which is a folder of yours." for folder in folders]
    found.append(
        "The settings (.env, the environment, secrets in files): DATABASE_URL, HF_TOKEN, the mail "
        "account and the like."
    )
    return found


def _key(accounts: int) -> str:
    text = (
        "SECRET_KEY (the setting, or the file secret-key in VAR_DIR). Keep a copy apart from the "
        "backup. With another key everybody has to sign in again"
    )
    if accounts:
        text += f", and {accounts} connected Hugging Face accounts have to be connected anew"
    return text + "."


def lacking() -> list[str]:
    """What of that a restored site can be seen to lack."""
    from modules.models import BaseModel, HubAccount

    found = []
    tokens = HubAccount.objects.values_list("token", flat=True)
    unread = sum(sealed.unseal(token) is None for token in tokens.iterator())
    if unread:
        found.append(
            f"SECRET_KEY is not the one that {unread} Hugging Face accounts were connected with: "
            "set the old one, or their owners connect them anew."
        )
    for folder in BaseModel.objects.filter(source=BaseModel.FOLDER).values_list(
        "folder", flat=True
    ):
        if not Path(folder).is_dir():
            found.append(f"The base model's folder {folder} is not there.")
    return found
