"""Logits of a GGUF model by a plain PyTorch Llama, in f64: what an implementation is compared with.

    python reference_logits.py MODEL.gguf --text heldout.txt --out logits.safetensors [--device cuda]

Needs `torch`, `numpy`, `safetensors`, `gguf` (to read and dequantize) and `tokenizers`. No cache, no
quantization beyond that of the weights, no tricks: every prompt is one causal forward pass.

Stored: `tokens` [prompts, 64] i32, `positions` [4] i32, `logits` [prompts, 4, vocabSize] f32 at those positions.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

PROMPT_STARTS = (0, 5000, 20000)  # token offsets into the text
PROMPT_LENGTH = 64
POSITIONS = (15, 31, 47, 63)


class LlamaFile:
    """Metadata, dequantized f64 weights and tokenizer of one GGUF file."""

    def __init__(self, path: Path, device: str):
        reader = GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.weights: dict[str, torch.Tensor] = {}
        for tensor in reader.tensors:
            # GGUF lists sizes fastest-varying first; `dequantize` returns [outChannels, inChannels].
            # .copy(): older gguf versions hand out read-only views of the mapped file.
            values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            self.weights[tensor.name] = torch.from_numpy(values).to(device, torch.float64)
        llama = lambda key: self.fields[f"llama.{key}"]
        self.layers = llama("block_count")
        self.heads = llama("attention.head_count")
        self.kv_heads = llama("attention.head_count_kv")
        self.head_dim = llama("rope.dimension_count")
        self.theta = llama("rope.freq_base")
        self.epsilon = llama("attention.layer_norm_rms_epsilon")

    def tokenizer(self) -> Tokenizer:
        """Byte-level BPE with the pre-tokenizer of GPT-2, rebuilt from the metadata."""
        tokens = self.fields["tokenizer.ggml.tokens"]
        merges = [tuple(merge.split(" ")) for merge in self.fields["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = ByteLevelDecoder()
        eos = tokens[self.fields["tokenizer.ggml.eos_token_id"]]
        tokenizer.add_special_tokens([eos])
        return tokenizer


def rms_norm(hidden: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + epsilon) * gain


def rope_interleaved(x: torch.Tensor, theta: float) -> torch.Tensor:
    """x [tokens, heads, headDim]: channels 2i and 2i+1 turn by position * theta^(-2i/headDim)."""
    tokens, _, head_dim = x.shape
    i = torch.arange(head_dim // 2, dtype=torch.float64, device=x.device)
    position = torch.arange(tokens, dtype=torch.float64, device=x.device)
    angle = (position[:, None] * theta ** (-2 * i / head_dim))[:, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()), dim=-1)
    return turned.flatten(-2)


def forward(model: LlamaFile, tokens: torch.Tensor) -> torch.Tensor:
    """tokens [tokens] -> logits [tokens, vocabSize]."""
    w = model.weights
    n = len(tokens)
    grouped_heads = model.heads // model.kv_heads
    causal = torch.full((n, n), -math.inf, dtype=torch.float64, device=tokens.device).triu(1)
    hidden = w["token_embd.weight"][tokens]
    for layer in range(model.layers):
        p = f"blk.{layer}."
        x = rms_norm(hidden, w[p + "attn_norm.weight"], model.epsilon)
        query = (x @ w[p + "attn_q.weight"].T).view(n, model.heads, model.head_dim)
        key = (x @ w[p + "attn_k.weight"].T).view(n, model.kv_heads, model.head_dim)
        value = (x @ w[p + "attn_v.weight"].T).view(n, model.kv_heads, model.head_dim)
        query, key = rope_interleaved(query, model.theta), rope_interleaved(key, model.theta)
        key = key.repeat_interleave(grouped_heads, dim=1)
        value = value.repeat_interleave(grouped_heads, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(model.head_dim) + causal
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(n, -1)
        hidden = hidden + attended @ w[p + "attn_output.weight"].T
        x = rms_norm(hidden, w[p + "ffn_norm.weight"], model.epsilon)
        gate = torch.nn.functional.silu(x @ w[p + "ffn_gate.weight"].T)
        hidden = hidden + (gate * (x @ w[p + "ffn_up.weight"].T)) @ w[p + "ffn_down.weight"].T
    x = rms_norm(hidden, w["output_norm.weight"], model.epsilon)
    return x @ w["token_embd.weight"].T  # tied embeddings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    model = LlamaFile(arguments.model, arguments.device)
    # newline="": keep line ends as they are in the file.
    with open(arguments.text, encoding="utf-8", newline="") as file:
        ids = model.tokenizer().encode(file.read()).ids
    prompts = torch.tensor([ids[start : start + PROMPT_LENGTH] for start in PROMPT_STARTS], device=arguments.device)
    logits = torch.stack([forward(model, prompt)[list(POSITIONS)] for prompt in prompts])
    save_file(
        {
            "tokens": prompts.to("cpu", torch.int32),
            "positions": torch.tensor(POSITIONS, dtype=torch.int32),
            "logits": logits.to("cpu", torch.float32).contiguous(),
        },
        arguments.out,
        metadata={
            "operation": "logits",
            "options": json.dumps({"model": arguments.model.name, "promptStarts": PROMPT_STARTS}),
            "version": "1",
        },
    )


if __name__ == "__main__":
    main()
