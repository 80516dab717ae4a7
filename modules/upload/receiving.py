"""Files on their way from a form or a program into nameless temporary files.

A file without a name is gone when it is closed, and when the process dies: an upload that breaks
off leaves nothing, however it ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler

from modules.storage import local


class NamelessFiles(FileUploadHandler):
    """As large as a module may be, all files of a request together; memory never grows."""

    def __init__(self, request: Any = None) -> None:
        super().__init__(request)
        self.received = 0
        self.file: IO[bytes] | None = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self.file, self.size = nameless(), 0

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self.file is not None
        self.received += len(raw_data)
        self.size += len(raw_data)
        most = settings.MAX_MODULE_BYTES
        if self.received > most:
            self.file.close()
            raise local.FileTooLarge(
                f"This upload is larger than {most:,} bytes, the most this site takes at once."
            )
        with self._or_close() as file:
            file.write(raw_data)

    def file_complete(self, file_size: int) -> UploadedFile:
        with self._or_close() as file:
            file.seek(0)  # what is still in memory is written now
        self.file = None
        return UploadedFile(
            file, self.file_name, self.content_type, file_size, self.charset,
            self.content_type_extra,
        )  # fmt: skip

    def upload_interrupted(self) -> None:
        if self.file is not None:
            self.file.close()

    @contextmanager
    def _or_close(self) -> Iterator[IO[bytes]]:
        assert self.file is not None
        try:
            with local.told_when_full():
                yield self.file
        except BaseException:
            self.file.close()
            raise


def nameless() -> IO[bytes]:
    folder = Path(settings.FILE_UPLOAD_TEMP_DIR)
    with local.told_when_full():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
