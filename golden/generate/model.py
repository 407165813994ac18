"""The embedded models in PyTorch with every cache: perplexity and greedy decoding (paper sections 3 and 4).

Weights come from the GGUF file, dequantized. Sums are f64; a tensor that a program would keep is rounded to f32.
The caches are in caches.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

import reference as R
from caches import Jitter, LayerCache, create_cache, to_f32

PREFILL_CHUNK = 512

# --- The model file ------------------------------------------------------------------------------------------


@dataclass
class Config:
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    theta: float
    epsilon: float
    layout: str = "interleaved"  # the row order of Wq and Wk in GGUF
    rope_divisors: Tensor | None = None  # of the frequencies, [headDim / 2]: long contexts of Llama 3

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim

    def angles(self, positions: Tensor) -> Tensor:
        """positions [tokens] -> what RoPE turns each pair by, [tokens, headDim / 2]."""
        angles = R.rope_angles(positions, self.head_dim, self.theta)
        return angles if self.rope_divisors is None else angles / self.rope_divisors


@dataclass
class Layer:
    """Weights [outChannels, inChannels] and gains [hiddenSize] of one block, f32 values held in f64; those that are read but
    once may be held in f32."""

    attention_norm: Tensor
    w_q: Tensor
    w_k: Tensor
    w_v: Tensor
    w_o: Tensor
    mlp_norm: Tensor
    w_gate: Tensor
    w_up: Tensor
    w_down: Tensor
    projections: dict = field(default_factory=dict, repr=False)  # CacheOptions -> Projection
    factors: dict = field(default_factory=dict, repr=False)  # U, S, V^T of its weights, by name


GGUF_NAMES = {
    "attention_norm": "attn_norm", "w_q": "attn_q", "w_k": "attn_k", "w_v": "attn_v", "w_o": "attn_output",
    "mlp_norm": "ffn_norm", "w_gate": "ffn_gate", "w_up": "ffn_up", "w_down": "ffn_down",
}


def config_of(fields: dict) -> Config:
    return Config(
        layers=fields["llama.block_count"],
        hidden_size=fields["llama.embedding_length"],
        heads=fields["llama.attention.head_count"],
        kv_heads=fields["llama.attention.head_count_kv"],
        head_dim=fields["llama.rope.dimension_count"],
        theta=fields["llama.rope.freq_base"],
        epsilon=fields["llama.attention.layer_norm_rms_epsilon"],
    )


def read_config(path: Path) -> Config:
    """Sizes of a file, without its weights."""
    return config_of({name: field.contents() for name, field in GGUFReader(path).fields.items() if name.startswith("llama.")})


class Model:
    """One GGUF file of the Llama architecture.

    weights: how the large matrices are held. The numbers are the same; f32 takes half the memory and is converted at every use.
    """

    def __init__(self, path: Path, device: str, weights: torch.dtype = torch.float64):
        large, held = [".attn_q.", ".attn_output.", ".ffn_", "token_embd.", "output.weight"], weights
        hold = lambda name: held if any(part in name for part in large) and "norm" not in name else torch.float64
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        weights = {
            # .astype copies: older gguf versions hand out read-only views of the mapped file
            t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).astype(np.float32)).to(device, hold(t.name))
            for t in reader.tensors
        }
        self.path, self.name = path, path.name
        self.fields = fields
        self.config = config_of(fields)
        self.config.rope_divisors = weights.get("rope_freqs.weight")
        self.embedding = weights["token_embd.weight"]
        self.output = weights.get("output.weight", self.embedding)  # tied where there is none
        self.output_norm = weights["output_norm.weight"]
        self.layers = [
            Layer(**{ours: weights[f"blk.{i}.{theirs}.weight"] for ours, theirs in GGUF_NAMES.items()})
            for i in range(self.config.layers)
        ]


# --- The forward pass ----------------------------------------------------------------------------------------


def normalize(hidden: Tensor, epsilon: float, jitter: Jitter) -> Tensor:
    """RMSNorm before its gain: stream times inverse rms."""
    h = hidden.double()
    return jitter(h * torch.rsqrt(h.square().mean(-1, keepdim=True) + epsilon))


def block(
    hidden: Tensor, layer: Layer, cache: LayerCache, config: Config, window: int, past: int,
    teacher_forced: bool, jitter: Jitter = to_f32,
) -> Tensor:
    """One transformer block. hidden [windows * window, hiddenSize] f32 -> the same shape.

    teacher_forced: every key and value comes out of the cache, the query's own included (`past` is 0).
    Otherwise: K and V of the new tokens are exact, those of the `past` tokens before come out of the cache.
    """
    c = config
    normalized = normalize(hidden, c.epsilon, jitter)
    x = jitter(normalized.double() * layer.attention_norm)
    query = jitter(x.double() @ layer.w_q.double().T)
    if teacher_forced:
        cache.append(x, normalized, jitter)
        keys, values = cache.keys_values()
    else:
        keys, values = cache.keys_values()
        keys = torch.cat((keys, jitter(x.double() @ layer.w_k.T)))
        values = torch.cat((values, jitter(x.double() @ layer.w_v.T)))
        cache.append(x, normalized, jitter)

    total = past + window
    positions = torch.arange(total, device=hidden.device)
    angles = c.angles(positions)
    windows = len(hidden) // window
    query_angles = angles[past:].repeat(windows, 1)
    key_angles = angles.repeat(windows, 1)
    q = R.rope(query.view(-1, c.heads, c.head_dim), query_angles, c.layout).view(windows, window, c.heads, -1)
    k = R.rope(keys.view(-1, c.kv_heads, c.head_dim), key_angles, c.layout).view(windows, total, c.kv_heads, -1)
    v = values.view(windows, total, c.kv_heads, -1)
    shared_by = c.heads // c.kv_heads
    causal = torch.full((window, total), -math.inf, device=hidden.device, dtype=torch.float64).triu(past + 1)
    attended = torch.empty_like(q)
    for w in range(windows):  # one window and some queries at a time keep the scores small
        qw = q[w].double().transpose(0, 1)
        kw = k[w].double().repeat_interleave(shared_by, dim=1).transpose(0, 1)
        vw = v[w].double().repeat_interleave(shared_by, dim=1).transpose(0, 1)
        for start in range(0, window, PREFILL_CHUNK):
            rows = slice(start, min(start + PREFILL_CHUNK, window))
            seen = slice(0, past + rows.stop)
            scores = qw[:, rows] @ kw[:, seen].transpose(1, 2) / math.sqrt(c.head_dim) + causal[rows, seen]
            attended[w, rows] = (scores.softmax(-1) @ vw[:, seen]).transpose(0, 1).float()
    attended = jitter(attended.view(len(hidden), -1).double())
    hidden = jitter(hidden.double() + (attended.double() @ layer.w_o.double().T))
    x = jitter(normalize(hidden, c.epsilon, jitter).double() * layer.mlp_norm)
    gate = torch.nn.functional.silu(x.double() @ layer.w_gate.double().T)
    up = jitter(gate * (x.double() @ layer.w_up.double().T))
    return jitter(hidden.double() + up.double() @ layer.w_down.double().T)


def forward(
    model: Model, tokens: Tensor, caches: list[LayerCache], past: int, teacher_forced: bool,
    jitter: Jitter = to_f32, tap: dict[int, tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """tokens [windows, window] -> final normed hidden [windows * window, hiddenSize] f64.

    `tap` receives per layer (x, normalized), as f32.
    """
    hidden = model.embedding[tokens.flatten()].float()
    for i, layer in enumerate(model.layers):
        if tap is not None:
            normalized = normalize(hidden, model.config.epsilon, jitter)
            tap[i] = (jitter(normalized.double() * layer.attention_norm), normalized)
        hidden = block(hidden, layer, caches[i], model.config, tokens.shape[1], past, teacher_forced, jitter)
    return normalize(hidden, model.config.epsilon, jitter).double() * model.output_norm


def perplexity_windows(model: Model, spec: str, windows: Tensor, jitter: Jitter = to_f32, calibration: Path | None = None) -> Tensor:
    """windows [windows, 2048] -> mean negative log-likelihood of tokens 1.. of each, f64 [windows].

    Teacher forced, everything quantized, nothing left in a residual window (2048 is a multiple of 128).
    """
    caches = create_cache(spec, model.config, model.layers, calibration, windows.shape[1])
    hidden = forward(model, windows, caches, past=0, teacher_forced=True, jitter=jitter)
    hidden = hidden.view(*windows.shape, -1)
    losses = []
    for w in range(len(windows)):
        logits = (hidden[w, :-1] @ model.output.double().T).log_softmax(-1)
        losses.append(-logits.gather(1, windows[w, 1:, None]).mean())
    return torch.stack(losses)


def greedy(model: Model, spec: str, prompt: Tensor, count: int, jitter: Jitter = to_f32):
    """prompt [n] -> ids [count] of greedy decoding, last logits f32 [vocabSize], gap of the two best logits [count]."""
    caches = create_cache(spec, model.config, model.layers)
    past, ids, gaps = 0, [], []
    chunks = list(prompt.split(PREFILL_CHUNK))
    while True:
        for chunk in chunks:
            hidden = forward(model, chunk[None], caches, past, teacher_forced=False, jitter=jitter)
            past += len(chunk)
        logits = (hidden[-1] @ model.output.double().T).float()
        best = logits.topk(2)
        ids.append(best.indices[0])
        gaps.append(best.values[0] - best.values[1])
        if len(ids) == count:
            return torch.stack(ids), logits, torch.stack(gaps)
        chunks = [ids[-1][None]]


def ulp_jitter(seed: int, device: str) -> Jitter:
    """Rounding to f32 with an error of up to one unit in the last place more, at random: another program's sums."""
    generator = torch.Generator(device=device).manual_seed(seed)

    def jitter(x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=generator, device=device, dtype=torch.float64) * 2 - 1
        return (x.double() * (1 + noise * 2.0**-23)).float()

    return jitter
