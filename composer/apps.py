from django.apps import AppConfig


class ComposerConfig(AppConfig):
    name = "composer"
