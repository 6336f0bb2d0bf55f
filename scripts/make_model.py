#!/usr/bin/env python3
"""Writes a Llama checkpoint with random weights of real scale, for tests and the demo; no download.

Why not vLLM's --load-format dummy: its weights are so small that attention does nothing, and the output
does not depend on the KV cache at all. A wrong byte would never show. Here every linear map keeps its
input's variance, and the attention is sharp (q, k) and heavy in the residual stream (o), so that an answer
depends on every part of its prefix; tests/e2e proves it by damaging pages.

The same arguments always give the same weight files.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_POSITIONS = 16384


@dataclass(frozen=True)
class Shape:
    layers: int
    kv_heads: int
    query_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int

    def kv_bytes_per_token(self) -> int:
        return self.layers * self.kv_heads * self.head_dim * 2 * 2  # K and V, 2 bytes each


SHAPES = {
    # 32 KiB of KV per token, as much as a model of several billion parameters with grouped queries; few
    # weights, since CPUs without native bf16 do not reach 10 GFLOP/s with them.
    "demo": Shape(8, 8, 8, 128, 128, 384, 4096),
    # Quick on one core: 4 KiB of KV per token.
    "small": Shape(4, 4, 4, 64, 256, 768, 4096),
}

# Gains over 1/sqrt(fan in). Scores get a standard deviation of about 2.2: some tens of 6,000 tokens count.
GAINS = {"q_proj": 1.5, "k_proj": 1.5, "v_proj": 1.0, "o_proj": 4.0, "gate_proj": 1.0, "up_proj": 1.0, "down_proj": 1.5}
LOGIT_DEVIATION = 4.0


def write_model(folder: Path, shape: Shape, seed: int = 0) -> None:
    """Does nothing when the folder already holds this very model."""
    stamp = folder / "made_with.json"
    made_with = json.dumps({"version": 1, "seed": seed, "shape": asdict(shape), "gains": GAINS}, sort_keys=True)
    if stamp.exists() and stamp.read_text() == made_with:
        return
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    _write_tokenizer(folder, shape.vocabulary)
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=1))
    _write_weights(folder / "model.safetensors", shape, seed)
    stamp.write_text(made_with)


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _write_weights(file: Path, shape: Shape, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)

    def linear(rows: int, columns: int, gain: float) -> torch.Tensor:
        weights = torch.randn(rows, columns, generator=generator) * (gain / math.sqrt(columns))
        return weights.to(torch.bfloat16)

    queries, keys = shape.query_heads * shape.head_dim, shape.kv_heads * shape.head_dim
    ones = torch.ones(shape.hidden, dtype=torch.bfloat16)
    tensors = {
        # Rows of unit variance: a token's own embedding weighs as much as one layer's contribution.
        "model.embed_tokens.weight": torch.randn(shape.vocabulary, shape.hidden, generator=generator).to(
            torch.bfloat16
        ),
        "model.norm.weight": ones.clone(),
        "lm_head.weight": linear(shape.vocabulary, shape.hidden, LOGIT_DEVIATION),
    }
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", queries, shape.hidden),
            ("self_attn.k_proj", keys, shape.hidden),
            ("self_attn.v_proj", keys, shape.hidden),
            ("self_attn.o_proj", shape.hidden, queries),
            ("mlp.gate_proj", shape.intermediate, shape.hidden),
            ("mlp.up_proj", shape.intermediate, shape.hidden),
            ("mlp.down_proj", shape.hidden, shape.intermediate),
        ):
            tensors[f"{prefix}{name}.weight"] = linear(rows, columns, GAINS[name.split(".")[1]])
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = ones.clone()
    save_file(tensors, str(file), metadata={"format": "pt"})


def _text() -> Iterator[str]:
    """Prose and code that every Python has."""
    try:
        from pydoc_data.topics import topics

        yield from (topics[name] for name in sorted(topics))
    except ImportError:
        import argparse as any_module

        for file in sorted(Path(str(any_module.__file__)).parent.glob("[a-d]*.py")):
            yield file.read_text(encoding="utf-8", errors="replace")


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|end|>",
                "eos_token": "<|end|>",
                "model_max_length": MAX_POSITIONS,
                "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:",
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SHAPES), default="demo")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.size]
    write_model(arguments.folder, shape, arguments.seed)
    print(f"{arguments.folder}: {arguments.size}, {shape.kv_bytes_per_token() // 1024} KiB of KV per token")


if __name__ == "__main__":
    main()
