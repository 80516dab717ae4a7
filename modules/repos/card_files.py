"""The cards of many versions at once, read from the store."""

from collections.abc import Iterable

from modules import cards, services
from modules.models import Commit, CommitFile
from modules.storage import local


def cards_of(commits: Iterable[Commit]) -> dict[int, cards.Card]:
    """By the commit's id; one without a card is left out."""
    files = CommitFile.objects.filter(
        commit__in=[commit.pk for commit in commits], path=services.CARD_NAME
    )
    return {
        file.commit_id: cards.read(b"".join(local.open(file.blob_id, 0, cards.LIMIT)))
        for file in files
    }
