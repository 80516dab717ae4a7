"""Which version of the site this is; pyproject.toml says the same (a test holds it)."""

VERSION = "0.1.0"
