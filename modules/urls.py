"""The library's addresses. The last ones take whatever is left: `/{owner}/{name}`, as on the Hub."""

from django.urls import path

app_name = "modules"
urlpatterns: list = []
