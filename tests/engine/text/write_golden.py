"""Writes tests/golden/t5_tiny.*: what the published implementation of T5 makes of a small random checkpoint.

    pip install transformers && python -m tests.engine.text.write_golden

To import it takes longer than all tests of this folder together, so they read these numbers instead.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.support.tiny import GOLDEN

LENGTHS = (150, 120, 40, 1)
"""Rows of each prompt that are not padding. Beyond a distance of 128 all rows share the last bucket."""

CONFIG: dict[str, Any] = {
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def main() -> None:
    torch.manual_seed(0)
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config(**CONFIG)).eval()
    for parameter in whole.parameters():  # norms of exactly one would hide whether they scale
        parameter.data += 0.1 * torch.randn_like(parameter)
    # As the hub has it: with the decoder, and the shared embeddings once.
    weights = {key: value.clone() for key, value in whole.state_dict().items() if "embed_tokens" not in key}
    ids = torch.randint(2, CONFIG["vocab_size"], (len(LENGTHS), max(LENGTHS)))
    valid = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    with torch.inference_mode():
        hidden = whole.encoder(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        half = whole.encoder.bfloat16()(input_ids=ids, attention_mask=valid.long()).last_hidden_state
    save_file(weights, GOLDEN / "t5_tiny.weights.safetensors")
    save_file(
        {"ids": ids, "valid": valid, "hidden": hidden, "hidden_bfloat16": half}, GOLDEN / "t5_tiny.golden.safetensors"
    )
    text = json.dumps({"transformers": transformers.__version__, "config": CONFIG}, indent=1)
    (GOLDEN / "t5_tiny.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
