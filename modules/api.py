"""The library for programs."""

urlpatterns: list = []
