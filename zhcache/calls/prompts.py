"""What a client can ask about models that read Chinese prompts."""

from __future__ import annotations

from zhcache import resources
from zhcache.calls.calls import Calls
from zhcache.protocol.prompts import ChineseChoices, PromptModel


class PromptCalls(Calls):
    """The part of ``Client`` that Chinese prompts are."""

    def chinese(
        self, repo: str, *, revision: str | None = None, variant: str | None = None
    ) -> ChineseChoices:
        """Returns what is held that reads Chinese prompts for a model.

        Raises:
            NotFound: The model is not held.
        """
        resources.check(repo, revision)
        query = {"repo": repo, **(resources.query(revision=revision, variant=variant) or {})}
        return self._line().call("GET", "/v1/chinese", ChineseChoices, query=query)

    def prompt_models(self) -> list[PromptModel]:
        """Returns everything held that reads Chinese prompts for some model."""
        return self._line().call("GET", "/v1/chinese", ChineseChoices).models
