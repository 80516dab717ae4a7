"""The composer's tiny library, for accounts that own something."""

from tests.composer.conftest import (  # noqa: F401
    base_model,
    kept_library,
    library,
    lora_modules,
    tiny_folder,
)
