"""Writes the model card with which an exported folder can be uploaded to the Hugging Face Hub."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import huggingface_hub

from depth_anything_jax.checkpoints import export, licences, released
from depth_anything_jax.checkpoints.bundle import Weights

_START = ("initial weights", "weights")  # roles of what a model is a fine-tuned form of
UPLOAD = 'huggingface_hub.upload_folder(repo_id="OWNER/NAME", folder_path="{folder}")'

_USE = """\
## Use

```python
from transformers import pipeline

depth = pipeline("depth-estimation", model="OWNER/NAME")("photo.jpg")["predicted_depth"]
```

{meaning} `AutoModelForDepthEstimation.from_pretrained` loads the network alone.

This folder is uploaded by one line, once the repository exists (`hf repos create NAME`):
`{upload}`
"""


def base_models(chain: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists the released models, by their names on the Hub, that a lineage starts from."""
    found = []
    for link in chain:
        if link["role"] in _START:
            known = released.by_repo(link["source"]) or released.by_path(link["source"])
            repo = known and (known.safetensors_repo or known.repo)
            if repo:
                found.append(repo)
    return list(dict.fromkeys(found))


def front_matter(
    weights: Weights,
    name: str,
    base_model: Sequence[str],
    results: Sequence[huggingface_hub.EvalResult],
) -> huggingface_hub.ModelCardData:
    """Makes the card's metadata in the Hub's words.

    Args:
      weights: what was exported.
      name: the model's, in the model-index.
      base_model: names on the Hub.
      results: scores.
    """
    licence = licences.combined(weights.metadata.get("licence_chain", []))
    known = licences.commercial_use(licence) is not None
    tags = ["depth-anything", "depth_anything_jax", "metric" if weights.is_metric else "relative"]
    return huggingface_hub.ModelCardData(
        license=licence.lower() if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.-]+", "-", licence.lower()),
        base_model=list(base_model) or None,
        pipeline_tag="depth-estimation",
        library_name="transformers",
        tags=tags,
        model_name=name,
        eval_results=list(results) or None,
    )


def card(
    weights: Weights,
    name: str,
    *,
    base_model: Sequence[str] = (),
    results: Sequence[huggingface_hub.EvalResult] = (),
    scores: str = "",
) -> str:
    """Formats the README.md of an exported folder.

    Args:
      weights: with a decoder.
      name: the model's.
      base_model: names on the Hub; none: what the licence chain tells.
      results: for the model-index.
      scores: the same for readers, in Markdown.

    Raises:
      ValueError: an encoder alone.
    """
    if weights.parts != "all":
        raise ValueError(f"{weights.source} is an encoder alone, which estimates no depth: no card")
    chain = weights.metadata.get("licence_chain", [])
    data = front_matter(weights, name, base_model or base_models(chain), results)
    meaning = "It is inverse depth up to scale and shift: larger is nearer."
    if weights.is_metric:
        meaning = f"It is depth in metres, at most {weights.max_depth:g}."
    if weights.focal is not None:
        meaning = f"It is canonical depth: multiply by f / {weights.focal:g} for metres."
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        export.description(weights, export.describe(weights)),
        _USE.format(meaning=meaning, upload=UPLOAD.format(folder=".")),
    ]
    if scores:
        parts.append(
            "## Scores\n\nNumbers are comparable where the protocol's hash is the same.\n\n"
            + scores
        )
    return "\n".join(parts).rstrip("\n") + "\n"
