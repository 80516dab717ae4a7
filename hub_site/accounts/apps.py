from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "hub_site.accounts"
    label = "accounts"
