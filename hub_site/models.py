from django.db import models


class Throttle(models.Model):
    """How much of one limit one account or address has used: the moment when nothing of it is left
    to wait for. The key is a keyed hash, so a row tells neither who it was nor from where."""

    key = models.CharField(max_length=64, primary_key=True)
    free_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.key[:8]}, until {self.free_at}"
