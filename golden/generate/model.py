"""The embedded models in PyTorch with every cache: perplexity and greedy decoding (paper sections 3 and 4).

Weights come from the GGUF file, dequantized. Sums are f64; a tensor that a program would keep is rounded to f32.
The caches here store what reading back gives (x^), not bytes: `reference.quantize` is the same code that makes the
byte-exact cases.

Common to all caches: a row is rounded to f16 when it is appended (the residual window is f16, and a block that
arrives whole takes the same way, so that appending one by one or at once gives the same bytes), and block
floor(position / 128) is quantized when its 128 tokens are there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

import calibrated as C
import reference as R

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

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass
class Layer:
    """Weights [outChannels, inChannels] and gains [hiddenSize] of one block, f32 values held in f64."""

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


GGUF_NAMES = {
    "attention_norm": "attn_norm", "w_q": "attn_q", "w_k": "attn_k", "w_v": "attn_v", "w_o": "attn_output",
    "mlp_norm": "ffn_norm", "w_gate": "ffn_gate", "w_up": "ffn_up", "w_down": "ffn_down",
}


class Model:
    def __init__(self, path: Path, device: str):
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        weights = {
            # .astype copies: older gguf versions hand out read-only views of the mapped file
            t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).astype(np.float64)).to(device)
            for t in reader.tensors
        }
        self.path, self.name = path, path.name
        self.fields = fields
        self.config = Config(
            layers=fields["llama.block_count"],
            hidden_size=fields["llama.embedding_length"],
            heads=fields["llama.attention.head_count"],
            kv_heads=fields["llama.attention.head_count_kv"],
            head_dim=fields["llama.rope.dimension_count"],
            theta=fields["llama.rope.freq_base"],
            epsilon=fields["llama.attention.layer_norm_rms_epsilon"],
        )
        self.embedding = weights["token_embd.weight"]  # also the output matrix: tied
        self.output_norm = weights["output_norm.weight"]
        self.layers = [
            Layer(**{ours: weights[f"blk.{i}.{theirs}.weight"] for ours, theirs in GGUF_NAMES.items()})
            for i in range(self.config.layers)
        ]


# --- Caches --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheOptions:
    """What a cache specification such as `xquant-cl:2@tuned?form=x` says."""

    name: str
    bits: int
    form: str = "x"  # 'x' or 'latent'
    delta_space: str = "x"  # 'x' (post-norm) or 'normalized' (before the gain)
    rotation: str = "none"
    range: str = "minmax"
    key_latent_grouping: str = "perToken"
    base_bits: int = 4
    base_layers: int = 3
    group_size: int = 128
    # `@calibrated`: average bits an element of K and V, layers that a layer is predicted from, blocks of its basis.
    average: float = 0.0
    predict: int = 0
    basis: str = "joint"
    sinks: int = 0


QUERY = {  # option of a cache argument -> field, type
    "form": ("form", str), "deltaSpace": ("delta_space", str), "rotation": ("rotation", str), "range": ("range", str),
    "keyGrouping": ("key_latent_grouping", str), "baseBits": ("base_bits", int), "group": ("group_size", int),
    "predict": ("predict", int), "basis": ("basis", str), "sinks": ("sinks", int),
}


def parse_cache(spec: str, config: Config) -> CacheOptions:
    """NAME[:BITS][@PRESET][?option=value&...]. Presets: paper = everything off, tuned = everything on."""
    spec, _, query = spec.partition("?")
    spec, _, preset = spec.partition("@")
    name, _, bits = spec.partition(":")
    if preset == "calibrated":
        options = CacheOptions("calibrated", 0, average=float(bits), predict=1 if name == "xquant-cl" else 0, sinks=4)
        name = ""
    else:
        options = CacheOptions(name=name, bits=int(bits) if bits else 16)
    if name in ("xquant", "xquant-cl"):
        options = replace(options, form="x" if config.kv_heads == config.heads else "latent")
        if preset == "paper":
            options = replace(options, key_latent_grouping="perChannel")
        else:
            space = "normalized" if name == "xquant-cl" else "x"
            options = replace(options, delta_space=space, rotation="hadamard", range="mse", sinks=1)
    for option in filter(None, query.split("&")):
        key, _, value = option.partition("=")
        name, kind = QUERY[key]
        options = replace(options, **{name: kind(value)})
    if options.sinks and options.name != "calibrated":
        raise ValueError(f"{spec}: only calibrated caches have sinks here; say sinks=0")
    return options


Jitter = Callable[[Tensor], Tensor]  # how a kept tensor is rounded to f32; see `ulp_jitter`


def to_f32(x: Tensor) -> Tensor:
    return x.float()


class Projection:
    """Wk and Wv of one layer as its cache reads them: gain and rotations folded in, in f64, then rounded to f32."""

    def __init__(self, layer: Layer, options: CacheOptions):
        w_k, w_v = layer.w_k, layer.w_v
        self.carries_x = 2 * len(w_k) > w_k.shape[1]  # calibrated: else [K | V] is the carrier
        self.transform, self.bits = None, None
        if options.delta_space == "normalized":
            w_k, w_v = w_k * layer.attention_norm, w_v * layer.attention_norm
        rotated = options.rotation == "hadamard"
        # Rows that are stored in full width are rotated themselves; latent factors are rotated inside the latent. Their
        # signs are fixed before any rotation.
        self.full_width_rows = options.name == "xquant-cl" or options.form == "x"
        self.rotate_rows = rotated and self.full_width_rows
        if options.form == "latent" and options.name == "xquant-cl":
            down, _ = self.factor(torch.cat((w_k, w_v)), rotated)
            self.down_kv = (R.rotate_inputs(down) if rotated else down).float()
        elif options.form == "latent":
            for name, w in (("k", w_k), ("v", w_v)):
                down, up = self.factor(w, rotated)
                setattr(self, f"down_{name}", down.float())
                setattr(self, f"up_{name}", up.float())
        if self.rotate_rows:
            w_k, w_v = R.rotate_inputs(w_k), R.rotate_inputs(w_v)
        self.w_k, self.w_v = w_k.float(), w_v.float()

    @staticmethod
    def factor(weight: Tensor, rotated: bool) -> tuple[Tensor, Tensor]:
        """weight [outDim, hiddenSize] -> down [latentRank, hiddenSize] (rows of U^T) and up [outDim, latentRank]."""
        u, s, vt = R.svd(weight.T)
        down, up = u.T, (s[:, None] * vt).T
        if rotated:  # latent' = latent H on the way in, and H again on the way out
            down, up = R.hadamard(down.T.contiguous()).T, R.hadamard(up)
        return down.contiguous(), up.contiguous()


class LayerCache:
    """One layer of a cache. Rows are appended in order; `keys_values` rebuilds K and V of all of them, before RoPE."""

    def __init__(self, index: int, options: CacheOptions, layer: Layer, shared: dict):
        self.index, self.options, self.layer, self.shared = index, options, layer, shared
        self.projection = layer.projections[options]
        self.rows: list[Tensor] = []  # f16 values of all tokens, one tensor per kind of row
        self.sealed: list[Tensor] = []  # what the sealed tokens read back as
        self.sealed_length = 0

    # What is to be stored of new tokens, f32: before f16 rounding and rotation.
    def incoming(self, x: Tensor, normalized: Tensor, jitter: Jitter) -> list[Tensor]:
        o, p = self.options, self.projection
        if o.name == "calibrated" and not p.carries_x:
            return [jitter(torch.cat((x.double() @ self.layer.w_k.T, x.double() @ self.layer.w_v.T), 1))]
        if o.name in ("kv", "kivi"):
            kept = [x.double() @ self.layer.w_k.T, x.double() @ self.layer.w_v.T]
            return [jitter(k) for k in kept]
        if p.full_width_rows:
            return [normalized if o.delta_space == "normalized" else x]
        return [jitter(x.double() @ down.double().T) for down in (p.down_k, p.down_v)]

    def append(self, x: Tensor, normalized: Tensor, jitter: Jitter = to_f32) -> None:
        """x, normalized [tokens, hiddenSize] f32."""
        new = [R.f16(row) for row in self.incoming(x, normalized, jitter)]
        if self.projection.rotate_rows:
            new = [R.hadamard(row) for row in new]
        self.rows = [torch.cat(pair) for pair in zip(self.rows, new)] if self.rows else new
        complete = len(self.rows[0]) // R.BLOCK * R.BLOCK
        if complete > self.sealed_length:
            fresh = self.seal([row[self.sealed_length : complete] for row in self.rows], jitter)
            self.sealed = [torch.cat(pair) for pair in zip(self.sealed, fresh)] if self.sealed else fresh
            self.sealed_length = complete

    def seal(self, rows: list[Tensor], jitter: Jitter) -> list[Tensor]:
        """Whole blocks of rows -> what they read back as."""
        o, p = self.options, self.projection
        group = o.group_size
        hat = lambda x, bits, grouping, range_=o.range: R.quantize(x, bits, group, grouping, range_, packed=False).x_hat
        if o.name == "kv":
            return rows
        if o.name == "kivi":
            return [hat(rows[0], o.bits, "perChannel", "minmax"), hat(rows[1], o.bits, "perToken", "minmax")]
        if o.name == "calibrated":
            return [self.seal_calibrated(rows[0], jitter)]
        if o.name == "xquant":
            if o.form == "x":
                return [hat(rows[0], o.bits, "perToken")]
            return [hat(rows[0], o.bits, o.key_latent_grouping), hat(rows[1], o.bits, "perToken")]
        # xquant-cl. The accumulator of these blocks is left for the next layer.
        row = rows[0]
        last_base = o.base_layers - 1
        if self.index <= last_base:
            accumulator = hat(row, o.base_bits, "perToken")
        else:
            previous = self.shared["accumulator"]
            delta = row - previous
            if o.form == "x":
                accumulator = previous + hat(delta, o.bits, "perToken")
            else:
                latent = hat(jitter(delta.double() @ p.down_kv.double().T), o.bits, "perToken")
                accumulator = previous + (latent.double() @ p.down_kv.double()).float()
        self.shared["accumulator"] = accumulator
        return [accumulator]

    def seal_calibrated(self, carrier: Tensor, jitter: Jitter) -> Tensor:
        """Coordinates against what the layers below predict; sinks come back as they are."""
        t = self.projection.transform
        y = jitter(carrier.double() @ t.encode.double())
        p = jitter(torch.zeros_like(y).double() + C.expected(t, self.shared.get("below", [])))
        length = self.shared.get("window", len(carrier))
        y_hat = p + C.symmetric_values(y - p, self.projection.bits, R.BLOCK, self.options.sinks, length)
        is_sink = (torch.arange(len(carrier), device=carrier.device) % length < self.options.sinks)[:, None]
        y_hat = torch.where(is_sink, y, y_hat)
        self.shared["below"] = [y_hat, *self.shared.get("below", [])][: self.options.predict]
        return torch.where(is_sink, carrier, jitter(y_hat.double() @ t.decode.double()))

    def keys_values(self) -> tuple[Tensor, Tensor]:
        """K, V [tokens, kvDim] f32: sealed tokens from what was quantized, the window from its f16 values."""
        p = self.projection
        if not self.rows:
            empty = torch.empty(0, self.layer.w_k.shape[0], device=self.layer.w_k.device)
            return empty, empty
        parts = []
        for values in (self.sealed, [row[self.sealed_length :] for row in self.rows]):
            if not values or not len(values[0]):
                continue
            if self.options.name in ("kv", "kivi"):
                parts.append((values[0], values[1]))
            elif self.options.name == "calibrated" and not p.carries_x:
                parts.append(tuple(values[0].split(values[0].shape[1] // 2, 1)))
            elif len(values) == 2:
                parts.append((R.product(values[0], p.up_k), R.product(values[1], p.up_v)))
            else:
                parts.append((R.product(values[0], p.w_k), R.product(values[0], p.w_v)))
        keys, values = zip(*parts)
        return torch.cat(keys), torch.cat(values)


def create_cache(spec: str, config: Config, layers: list[Layer], calibration: Path | None = None, window: int | None = None) -> list[LayerCache]:
    """The caches of all layers. Below the base layer, xquant-cl of latents stores what xquant does (paper section 3.3.1).

    window: tokens of a sequence, where several lie one after another and are sealed at once.
    """
    options, shared = parse_cache(spec, config), {}
    if window is not None:
        shared["window"] = window
    if options.name == "calibrated":
        return calibrated_cache(options, config, layers, shared, calibration)
    plain = replace(options, name="xquant", bits=options.base_bits, delta_space="x")
    caches = []
    for i, layer in enumerate(layers):
        is_plain = options.name == "xquant-cl" and options.form == "latent" and i < options.base_layers - 1
        own = plain if is_plain else options
        if own not in layer.projections:  # folding and SVD once per layer and set of options
            layer.projections[own] = Projection(layer, own)
        caches.append(LayerCache(i, own, layer, shared))
    return caches


def calibrated_cache(options: CacheOptions, config: Config, layers: list[Layer], shared: dict, path: Path) -> list[LayerCache]:
    device = str(layers[0].w_k.device)
    chosen = C.read_set(path, options.average, options.predict, options.basis, device)
    bits = C.allocate([t.importance for t in chosen.layers], 2 * config.kv_dim, options.average, chosen.distortion)
    caches = []
    for i, layer in enumerate(layers):
        layer.projections[options] = Projection(layer, options)
        layer.projections[options].transform, layer.projections[options].bits = chosen.layers[i], bits[i].to(device)
        caches.append(LayerCache(i, options, layer, shared))
    return caches


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
    query = jitter(x.double() @ layer.w_q.T)
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
    angles = R.rope_angles(positions, c.head_dim, c.theta)
    windows = len(hidden) // window
    query_angles = angles[past:].repeat(windows, 1)
    key_angles = angles.repeat(windows, 1)
    q = R.rope(query.view(-1, c.heads, c.head_dim), query_angles, c.layout).view(windows, window, c.heads, -1)
    k = R.rope(keys.view(-1, c.kv_heads, c.head_dim), key_angles, c.layout).view(windows, total, c.kv_heads, -1)
    v = values.view(windows, total, c.kv_heads, -1)
    causal = torch.full((window, total), -math.inf, device=hidden.device, dtype=torch.float64).triu(past + 1)
    attended = torch.empty_like(q)
    for w in range(windows):  # one window at a time keeps the scores small
        shared_by = c.heads // c.kv_heads
        kw = k[w].double().repeat_interleave(shared_by, dim=1).transpose(0, 1)
        vw = v[w].double().repeat_interleave(shared_by, dim=1).transpose(0, 1)
        scores = q[w].double().transpose(0, 1) @ kw.transpose(1, 2) / math.sqrt(c.head_dim) + causal
        attended[w] = (scores.softmax(-1) @ vw).transpose(0, 1).float()
    attended = jitter(attended.view(len(hidden), -1).double())
    hidden = jitter(hidden.double() + (attended.double() @ layer.w_o.T))
    x = jitter(normalize(hidden, c.epsilon, jitter).double() * layer.mlp_norm)
    gate = torch.nn.functional.silu(x.double() @ layer.w_gate.T)
    up = jitter(gate * (x.double() @ layer.w_up.T))
    return jitter(hidden.double() + up.double() @ layer.w_down.T)


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
        logits = (hidden[w, :-1] @ model.embedding.T).log_softmax(-1)
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
        logits = (hidden[-1] @ model.embedding.T).float()
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
