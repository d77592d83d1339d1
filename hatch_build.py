"""
What hatchling fills in when it builds the package: the description and the addresses that a package index shows.

README.md has relative links, for those who read it in a clone. A package index has no files beside it: there the links
lead to the repository's address, `[tool.hatch.metadata.hooks.custom]` in pyproject.toml, or are plain text without one.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# What README.md calls the address of the repository.
PLACEHOLDER = "ADDRESS-OF-THIS-REPOSITORY"
URLS = {
    "Paper": "https://arxiv.org/abs/2603.05937",
    "Authors' weights": "https://huggingface.co/phamquiluan/ResidualMaskingNetwork",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")


class IndexPage(MetadataHookInterface):
    """Make the links of the description absolute, and name the repository's pages."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme` and `urls` of the project."""
        address = str(self.config.get("address", "")).rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, address)}
        metadata["urls"] = {**URLS, **addresses(address)}


def absolute(text: str, address: str) -> str:
    """Return Markdown whose relative links and images lead to a repository, or are left out without its address."""

    def replaced(found: "re.Match[str]") -> str:
        image, name, target = found.groups()
        if not address:
            return "" if image else name
        return f"{image}[{name}]({address}/{'raw' if image else 'blob'}/main/{target})"

    return _LINK.sub(replaced, text).replace(PLACEHOLDER, address or PLACEHOLDER)


def addresses(address: str) -> dict[str, str]:
    """Return the pages of a repository by the names that a package index knows."""
    if not address:
        return {}
    pages = {"Documentation": "blob/main/docs/index.md", "Changelog": "blob/main/CHANGELOG.md", "Issues": "issues"}
    return {"Repository": address, **{name: f"{address}/{page}" for name, page in pages.items()}}
