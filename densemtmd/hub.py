"""Networks on the Hugging Face Hub, by the library's own mixin: ``push_to_hub``, ``save_pretrained`` and ``from_pretrained``.

Needs ``huggingface_hub``, which ``densemtmd[backbones]`` brings along. What lies there is what :func:`densemtmd.release.release` writes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download

from densemtmd.inference import Predictor, checkpoints_of

FILES = ("*.safetensors", "*/*.safetensors", "README.md", "config.json")
"""What a repository holds; nothing else of it is fetched."""


class HubPredictor(ModelHubMixin, Predictor, library_name="densemtmd"):
    """A :class:`~densemtmd.inference.Predictor` that comes from a repository of the Hub or from a folder of the same form.

    >>> predictor = HubPredictor.from_pretrained("me/streets")   # doctest: +SKIP
    >>> predictor(image, labelset="stanford")                    # doctest: +SKIP
    >>> predictor.push_to_hub("me/others")                       # doctest: +SKIP
    """

    home: Path
    """The folder that it was loaded from."""

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: Any, force_download: bool, local_files_only: bool, token: Any, **how: Any
    ) -> HubPredictor:
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id, revision=revision, cache_dir=cache_dir, force_download=force_download, local_files_only=local_files_only,
                    token=token, allow_patterns=[*FILES],
                )
            )  # fmt: skip
        predictor = cls.load(folder, **how)
        predictor.home = folder
        return predictor

    def _save_pretrained(self, save_directory: Path) -> None:
        for file in (*checkpoints_of(self.home), self.home / "README.md", self.home / "config.json"):
            there = save_directory / file.relative_to(self.home)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, there)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        """The card that lies beside the weights, in place of the mixin's own."""
        from huggingface_hub import ModelCard

        card = self.home / "README.md"
        return ModelCard.load(card) if card.is_file() else super().generate_model_card(*args, **kwargs)
