"""The two segments of a repo's address. A first segment that is one of ours is nobody's name."""

from hub_site.accounts import names


class RepoName:
    regex = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class Owner(RepoName):
    def to_python(self, value: str) -> str:
        if value.lower() in names.OURS:
            raise ValueError("one of the site's own addresses")
        return value
