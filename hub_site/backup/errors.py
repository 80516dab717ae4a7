"""What stops a backup or a restore; the commands show the words."""

from composer.engine.errors import CommonsError


class BackupError(CommonsError):
    """Nothing that was whole before has been harmed."""

    code = "backup"


class Damaged(BackupError):
    """Bytes that are not what their hash says."""


class BlobsGone(BackupError):
    """Files that the dump names are not in the store: they may have been pruned just now."""

    def __init__(self, user_message: str, hashes: list[str]) -> None:
        super().__init__(user_message)
        self.hashes = hashes
