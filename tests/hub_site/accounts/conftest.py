"""The composer's tiny library, for accounts that own something."""

from tests.composer.conftest import base_model, library, lora_modules, tiny_folder  # noqa: F401
