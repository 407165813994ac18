"""The golden cases, one function per operation. golden/README.md lists their tensors and options.

Inputs are made on the CPU from fixed seeds (the same on every machine), results on the device. A tolerance is derived
from the case's own data by the functions below; none was adjusted to make a comparison pass.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from torch import Tensor

import calibrated as C
import model as M
import planted as P
import reference as R

ULP = 2.0**-24  # relative error of one f32 rounding
GROUP = 128
REAL_LAYERS = (0, 3, 10, 19)


@dataclass
class Case:
    name: str
    operation: str
    options: dict
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    tolerance: dict[str, dict]  # per output that is not exact


@dataclass
class Context:
    device: str
    seed: int
    models: dict[str, M.Model]  # 'mha', 'gqa'
    windows: Tensor  # i64 [windows, 2048]
    taps: dict[str, dict[int, tuple[Tensor, Tensor]]]  # model -> layer -> (x, normalized), f32 [256, hiddenSize]
    pending: dict[str, list[tuple[str, str, Future]]] = field(default_factory=dict)  # family -> runs of (model, cache)

    def generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)


# --- Tolerances ----------------------------------------------------------------------------------------------


def close(absolute: float, relative: float = 2 * ULP) -> dict:
    return {"absolute": float(absolute), "relative": relative}


def product_error(x: Tensor, weight: Tensor) -> float:
    """n terms summed in f32 in any order: at most n * 2^-24 * (sum of the magnitudes of the terms)."""
    return x.shape[1] * ULP * float((x.double().abs() @ weight.double().abs().T).max())


def rope_error(x: Tensor, largest_angle: float) -> float:
    """An angle in f32 is off by up to angle * 2^-24, its cos and sin by as much; four more roundings."""
    return 2 * float(x.abs().max()) * ULP * (largest_angle + 4)


def sum_variance(x: Tensor, weight: Tensor) -> Tensor:
    """Variance of the error of x @ weight.T in f32, [tokens, outs].

    Each of the n additions is off by a number spread evenly over u times its partial sum, with variance u^2 / 3. Partial sums are
    those of the order of the index, or of an average order if these are larger; n products round once more.
    """
    parts = []
    for rows in x.double().split(max(1, 2**22 // weight.numel())):
        terms = rows[:, None] * weight.double()
        n, total, squares = x.shape[1], terms.sum(-1), terms.square().sum(-1)
        partial = torch.maximum(terms.cumsum(-1).square().sum(-1), n * (total.square() / 3 + squares / 6))
        parts.append(ULP**2 / 3 * (partial + squares))
    return torch.cat(parts)


def stored_variance(x_hat: Tensor, minimum: Tensor, weight: Tensor) -> Tensor:
    """`sum_variance` of stored rows: a kernel may sum codes and minima apart, whose partial sums may be larger."""
    return torch.maximum(sum_variance(x_hat, weight), sum_variance(x_hat - minimum, weight) + sum_variance(minimum, weight))


NOISY_RUNS = 64
DEVIATIONS = 8  # of the error of a right kernel


def attend_error(query: Tensor, pairs: list, minima: list, kv_heads: int, position: int, theta: float, layout: str) -> float:
    """Attention in f32, NOISY_RUNS times, every step off by a random number of the size of its rounding errors.

    DEVIATIONS times the standard deviation of the element that moves most.
    """
    heads, head_dim = query.shape
    tokens = len(pairs[0][0])
    g = torch.Generator().manual_seed(2508)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(query.device)
    even = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64).to(query.device) * 2 - 1
    (key_rows, w_k), (value_rows, w_v) = pairs
    keys, values = key_rows.double() @ w_k.double().T, value_rows.double() @ w_v.double().T
    key_deviation, value_deviation = (stored_variance(x, m, w).sqrt() for (x, w), m in zip(pairs, minima))
    pair = torch.arange(head_dim // 2, dtype=torch.float64, device=query.device) * 2 / head_dim
    shared = heads // kv_heads

    def turned(x: Tensor, positions: Tensor, frequencies: Tensor, noise: float) -> Tensor:
        angles = positions[:, None] * frequencies
        angles = angles * (1 + noise * ULP * even(*angles.shape))
        y = R.rope(x, angles, layout).double()  # its f32 result is one of the four roundings
        length = R.rope(x.square(), angles * 0, layout).double().view(*x.shape[:2], -1)
        length = (length + (length.roll(head_dim // 2, -1) if layout == "half" else length.unflatten(-1, (-1, 2)).flip(-1).flatten(-2))).sqrt()
        return y + noise * ULP * math.sqrt(4 / 3) * length * normal(*y.shape)

    def run(noise: float) -> Tensor:
        # A power in f32, its exponent and the product with the position.
        frequencies = theta**-pair * (1 + noise * ULP * (pair * math.log(theta) + 4) * even(head_dim // 2))
        k = (keys + noise * key_deviation * normal(*keys.shape)).view(tokens, kv_heads, head_dim)
        k = turned(k, torch.arange(tokens, device=query.device).double(), frequencies, noise).repeat_interleave(shared, dim=1)
        q = turned(query[None].double(), torch.tensor([float(position)], device=query.device), frequencies, noise)[0]
        scores = torch.einsum("hd,thd->ht", q, k)
        deviation = torch.stack([sum_variance(q[h : h + 1], k[:, h])[0] for h in range(heads)]).sqrt()
        scores = (scores + noise * deviation * normal(*scores.shape)) / math.sqrt(head_dim)
        below = scores - scores.amax(1, keepdim=True)
        p = below.exp() * (1 + noise * ULP * (2 * below.abs() + 4) * even(*below.shape))
        v = (values + noise * value_deviation * normal(*values.shape)).view(tokens, kv_heads, head_dim).repeat_interleave(shared, dim=1)
        total = p.sum(1, keepdim=True)
        total = total + noise * sum_variance(p, torch.ones_like(p[:1])).sqrt() * normal(heads, 1)
        average = torch.einsum("ht,thd->hd", p, v)
        # Or the stored rows are averaged and projected once.
        rows = p @ value_rows.double()
        for h in range(heads):
            weight = w_v[h // shared * head_dim :][:head_dim]
            variance = sum_variance(p[h : h + 1], v[:, h].T) + sum_variance(rows[h : h + 1], weight)
            variance = variance + sum_variance(p[h : h + 1], value_rows.T) @ weight.double().square().T
            average[h] += noise * variance[0].sqrt() * normal(head_dim)
        return average / total

    exact = run(0.0)
    moved = torch.stack([run(1.0) - exact for _ in range(NOISY_RUNS)])
    return DEVIATIONS * float(moved.square().mean(0).sqrt().max())


def minima_of(q: R.Quantized, grouping: str) -> Tensor:
    """The minimum of every element's group, [tokens, channels]."""
    tokens, channels = q.x_hat.shape
    if grouping == "perToken":
        return q.mins.float().view(tokens, -1).repeat_interleave(GROUP, 1)[:, :channels]
    return q.mins.float().view(-1, channels).repeat_interleave(GROUP, 0)[:tokens]


# --- Inputs --------------------------------------------------------------------------------------------------


def heavy(g: torch.Generator, tokens: int, channels: int) -> Tensor:
    """Heavy-tailed values, two outlier channels, an offset per channel: what activations look like at their worst."""
    x = torch.randn(tokens, channels, generator=g) * torch.exp(0.7 * torch.randn(tokens, channels, generator=g))
    x = x + 0.5 * torch.randn(1, channels, generator=g)
    x[:, 3 % channels] *= 20
    x[:, 17 % channels] = x[:, 17 % channels] * 4 - 30
    return x


def adversarial(kind: str, g: torch.Generator, bits: int, grouping: str, tokens: int, channels: int) -> Tensor:
    shape = (tokens, channels)
    uniform = lambda low, high: low + (high - low) * torch.rand(shape, generator=g)
    if kind == "constant":
        values = torch.tensor([0.1, -0.0, 0.0, 1e-8, 65504.0, -65504.0, -3.0, 1 / 3, 6e-8, -1000.4])
        index = torch.arange(tokens)[:, None] if grouping == "perToken" else torch.arange(channels)[None]
        return values[index.expand(shape) % len(values)].clone()
    if kind == "subnormal-f32":  # every scale rounds to 0
        return uniform(-1, 1) * 2.0**-130
    if kind == "subnormal-f16":  # scales and minima are subnormal in f16, some scales 0
        return uniform(-6e-5, 6e-5) * torch.rand(1, channels, generator=g) ** 8
    if kind == "extreme":
        choice = torch.randint(0, 5, shape, generator=g)
        return torch.where(choice == 0, 65504.0, torch.where(choice == 1, -65504.0, uniform(-60000, 60000)))
    if kind == "tie":  # half of the values exactly between two codes
        top = 0.25 * (2**bits - 1)
        x = torch.randint(0, 2 * (2**bits - 1) + 1, shape, generator=g) * 0.125
        for line in (0, 128):
            if grouping == "perToken" and line < channels:
                x[:, line], x[:, line + 1] = 0, top
            if grouping == "perChannel" and line < tokens:
                x[line], x[line + 1] = 0, top
        return x
    if kind == "outlier":  # one value 10^4 times the rest in each group
        x = torch.randn(shape, generator=g)
        if grouping == "perToken":
            x[torch.arange(tokens), torch.arange(tokens) % channels] = 3e4
        else:
            x[torch.arange(channels) % 128, torch.arange(channels)] = -3e4
        return x
    raise ValueError(kind)


# The worked numbers E1..E10 of the quantizer's specification (id, bits, values).
WORKED = (
    ("E1", 2, (-1, -0.5, 0, 0.5, 1, 1.5, 2, 0.25)), ("E2", 2, (-5.3, -2.1, -3.7, -4.9)),
    ("E3", 2, (0, 1, 0.5, 0.25, 0.75, 0.125)), ("E4", 3, (-1.98, -2.1, -2.27, -2.54)),
    ("E5", 4, (2.0, -0.98, 0.53, 1.9)), ("E6", 4, (0, 3.75, 0.125, 0.375, 0.625, 0.875, 1.125, 3.625)),
    ("E7", 2, (0.1, 0.1, 0.1, 0.1)), ("E8", 2, (0.0, 8e-08, 4e-08, 2e-08)),
    ("E9", 2, (1000.4, 1000.5, 1000.6, 1000.7)), ("E10", 2, (0.0, 0.08935546875, 0.1787109375, 0.0595703125)),
)


# --- quantize, pack, rotate, rope, svd -------------------------------------------------------------------------


def quantize_case(name: str, x: Tensor, bits: int, grouping: str, range_="minmax", rotation="none") -> Case:
    rows = R.hadamard(x) if rotation == "hadamard" else x
    q = R.quantize(rows, bits, GROUP, grouping, range_)
    options = {"bits": bits, "groupSize": GROUP, "grouping": grouping, "range": range_, "rotation": rotation}
    return Case(f"quantize-{name}", "quantize", options, {"x": x}, {**q.stored(), "codes": q.codes, "x_hat": q.x_hat}, {})


def quantize_family(c: Context) -> Iterator[Case]:
    for bits in (1, 2, 3, 4, 8):
        for grouping in ("perToken", "perChannel"):
            for range_ in ("minmax", "mse"):
                for rotation in ("none", "hadamard"):
                    name = f"heavy-b{bits}-{grouping}-{range_}-{rotation}"
                    x = heavy(c.generator(name), 40 if grouping == "perToken" else 130, 64).to(c.device)
                    yield quantize_case(name, x, bits, grouping, range_, rotation)
    for width in (32, 64, 128, 192, 256, 576):
        x = heavy(c.generator(f"width{width}"), 37, width).to(c.device)
        yield quantize_case(f"width{width}-b2-tuned", x, 2, "perToken", "mse", "hadamard")
        yield quantize_case(f"width{width}-b3-perToken", x, 3, "perToken")
        yield quantize_case(f"width{width}-b4-perChannel", x, 4, "perChannel")
    for kind in ("constant", "subnormal-f32", "subnormal-f16", "extreme", "tie", "outlier"):
        for bits, grouping, range_ in ((2, "perToken", "minmax"), (3, "perChannel", "mse"), (4, "perToken", "mse"), (8, "perChannel", "minmax")):
            name = f"{kind}-b{bits}-{grouping}-{range_}"
            x = adversarial(kind, c.generator(name), bits, grouping, *((24, 192) if grouping == "perToken" else (130, 32)))
            yield quantize_case(name, x.to(c.device), bits, grouping, range_)
    for bits, count in sorted({(b, len(v)) for _, b, v in WORKED}):
        # One group per column, the cases of this length and width of code in turn.
        columns = [torch.tensor(v, dtype=torch.float32) for _, b, v in WORKED if (b, len(v)) == (bits, count)]
        x = torch.stack([columns[i % len(columns)] for i in range(32)], dim=1).contiguous().to(c.device)
        yield quantize_case(f"worked-b{bits}-n{count}", x, bits, "perChannel")
    for bits in (1, 2, 3, 4, 8):
        for range_ in ("minmax", "mse"):
            groups = torch.from_numpy(P.asymmetric(bits, range_, c.seed + bits)).to(c.device)
            for grouping in ("perToken", "perChannel"):
                x = groups if grouping == "perToken" else groups.T.contiguous()
                yield quantize_case(f"planted-b{bits}-{grouping}-{range_}", x, bits, grouping, range_)
    for layer in REAL_LAYERS:
        x, normalized = (t[:64] for t in c.taps["mha"][layer])
        yield quantize_case(f"books-mha-layer{layer}-b4-paper", x.contiguous(), 4, "perToken")
        yield quantize_case(f"books-mha-layer{layer}-b2-tuned", normalized.contiguous(), 2, "perToken", "mse", "hadamard")
        x = c.taps["gqa"][layer][0]
        u, _, _ = R.svd(c.models["gqa"].layers[layer].w_k.T)
        latent = (x.double() @ u).float()
        yield quantize_case(f"books-gqa-layer{layer}-latent-b4-paper", latent, 4, "perChannel")


def pack_family(c: Context) -> Iterator[Case]:
    for bits in (1, 2, 3, 4, 8):
        for groups, size in ((6, 128), (5, 64), (4, 37)):
            codes = torch.randint(0, 2**bits, (groups, size), generator=c.generator(f"pack{bits}{size}"), dtype=torch.uint8).to(c.device)
            yield Case(f"pack-b{bits}-n{size}", "pack", {"bits": bits}, {"codes": codes}, {"packed": R.pack(codes, bits)}, {})


def rotate_family(c: Context) -> Iterator[Case]:
    for width in (32, 64, 128, 192, 256, 576):
        x = heavy(c.generator(f"rotate{width}"), 16, width).to(c.device)
        yield Case(f"rotate-width{width}", "rotate", {"block": R.rotation_block(width)}, {"x": x}, {"rotated": R.hadamard(x)}, {})
    x = (torch.rand(16, 64, generator=c.generator("rotate-subnormal")) * 2.0**-128).to(c.device)
    yield Case("rotate-subnormal", "rotate", {"block": 64}, {"x": x}, {"rotated": R.hadamard(x)}, {})


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_family(c: Context) -> Iterator[Case]:
    for layout in ("half", "interleaved"):
        for head_dim, heads, theta, first, scaling in ((32, 2, 10000.0, 0, None), (64, 4, 10000.0, 1000, None), (128, 1, 500000.0, 20000, LLAMA3)):
            x = torch.randn(24, heads * head_dim, generator=c.generator(f"rope{head_dim}")).to(c.device)
            angles = R.rope_angles(torch.arange(first, first + 24, device=c.device), head_dim, theta, scaling)
            rotated = R.rope(x.view(24, heads, head_dim), angles, layout).view(24, -1)
            options = {"layout": layout, "headDim": head_dim, "theta": theta, "firstPosition": first, "rope_scaling": scaling}
            tolerance = {"rotated": close(rope_error(x, float(angles.max())))}
            yield Case(f"rope-{layout}-d{head_dim}-p{first}", "rope", options, {"x": x}, {"rotated": rotated}, tolerance)


def svd_family(c: Context) -> Iterator[Case]:
    gqa = c.models["gqa"].layers
    matrices = {
        "random": torch.randn(64, 32, generator=c.generator("svd")).to(c.device),
        "books-gqa-layer0-key": gqa[0].w_k.T.float().contiguous(),
        "books-gqa-layer10-key-value": torch.cat((gqa[10].w_k, gqa[10].w_v)).T.float().contiguous(),
    }
    # Pairs of singular values that are nearly equal: their vectors are not determined, but orthonormal all the same.
    q, _ = torch.linalg.qr(torch.randn(48, 24, generator=c.generator("svd-close"), dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(24, 24, generator=c.generator("svd-close-right"), dtype=torch.float64))
    values = torch.tensor([4 * 0.8 ** (i // 2) * (1 + 1e-7 * (i % 2)) for i in range(24)], dtype=torch.float64)
    matrices["close"] = ((q * values) @ p.T).float().to(c.device)
    for name, w in matrices.items():
        u, s, vt = R.svd(w)
        # A perturbation E of W moves singular values by |E| and vectors by |E| / (distance to the next value).
        moved = w.shape[0] * ULP * float(s[0])
        gap = float(torch.cat((s[:-1] - s[1:], s[-1:])).min())
        vectors = close(2 * moved / gap)
        tolerance = {"u": vectors, "s": close(moved), "vt": vectors}
        yield Case(f"svd-{name}", "svd", {}, {"w": w}, {"u": u.float(), "s": s.float(), "vt": vt.float()}, tolerance)


# --- rematerialize, cl-encode, cl-decode, attend ---------------------------------------------------------------


def cache_options(form, bits, key_grouping, value_grouping, rotation="none", range_="minmax", **more) -> dict:
    options = {"form": form, "bits": bits, "groupSize": GROUP, "keyGrouping": key_grouping, "valueGrouping": value_grouping, "rotation": rotation, "range": range_}
    if form == "x":
        options["grouping"] = key_grouping
    return {**options, **more}


def stored_rows(c: Context, which: str, layer: int, preset: str, bits: int, tokens: int):
    """Real rows of an embedded model as the plain XQuant cache stores them. -> form, options, inputs, K, V, errors."""
    model = c.models[which]
    spec = f"xquant:{bits}@{preset}" + ("?sinks=0" if preset == "tuned" else "")
    cache = M.create_cache(spec, model.config, model.layers[layer : layer + 1])[0]
    o, p = cache.options, cache.projection
    x, normalized = (t[:tokens] for t in c.taps[which][layer])
    rows = [R.f16(row) for row in cache.incoming(x, normalized, M.to_f32)]
    rows = [R.hadamard(row) for row in rows] if p.rotate_rows else rows
    if o.form == "x":
        q = R.quantize(rows[0], bits, GROUP, "perToken", o.range)
        options = cache_options("x", bits, "perToken", "perToken", o.rotation, o.range, tokens=tokens)
        return options, {**q.stored(), "w_k": p.w_k, "w_v": p.w_v}, [(q.x_hat, p.w_k), (q.x_hat, p.w_v)], (q, q)
    k = R.quantize(rows[0], bits, GROUP, o.key_latent_grouping, o.range)
    v = R.quantize(rows[1], bits, GROUP, "perToken", o.range)
    options = cache_options("latent", bits, o.key_latent_grouping, "perToken", o.rotation, o.range, tokens=tokens)
    return options, {**k.stored("key_"), **v.stored("value_"), "up_k": p.up_k, "up_v": p.up_v}, [(k.x_hat, p.up_k), (v.x_hat, p.up_v)], (k, v)


def rematerialize_case(name: str, options: dict, inputs: dict, pairs: list) -> Case:
    outputs = {kind: R.product(x, w) for kind, (x, w) in zip(("keys", "values"), pairs)}
    tolerance = {kind: close(product_error(x, w)) for kind, (x, w) in zip(("keys", "values"), pairs)}
    return Case(f"rematerialize-{name}", "rematerialize", options, inputs, outputs, tolerance)


def random_stored(c: Context, name: str, form: str, bits: int, grouping: str, tokens: int, width: int, kv_dim: int, draw=heavy):
    g = c.generator(name)
    weights = [(torch.randn(kv_dim, width, generator=g) / math.sqrt(width)).to(c.device) for _ in range(2)]
    if form == "x":
        q = R.quantize(R.f16(draw(g, tokens, width)).to(c.device), bits, GROUP, grouping, "minmax")
        options = cache_options("x", bits, grouping, grouping, tokens=tokens)
        return options, {**q.stored(), "w_k": weights[0], "w_v": weights[1]}, [(q.x_hat, w) for w in weights], (q, q)
    k = R.quantize(R.f16(draw(g, tokens, width)).to(c.device), bits, GROUP, grouping, "minmax")
    v = R.quantize(R.f16(draw(g, tokens, width)).to(c.device), bits, GROUP, "perToken", "minmax")
    options = cache_options("latent", bits, grouping, "perToken", tokens=tokens)
    return options, {**k.stored("key_"), **v.stored("value_"), "up_k": weights[0], "up_v": weights[1]}, [(k.x_hat, weights[0]), (v.x_hat, weights[1])], (k, v)


def rematerialize_family(c: Context) -> Iterator[Case]:
    for form, bits, grouping, tokens, width, kv_dim in (
        ("x", 1, "perToken", 128, 192, 64), ("x", 3, "perToken", 128, 64, 32), ("x", 8, "perToken", 128, 64, 64),
        ("x", 2, "perChannel", 256, 64, 32), ("x", 3, "perChannel", 128, 192, 64),
        ("latent", 2, "perChannel", 256, 64, 64), ("latent", 3, "perChannel", 128, 32, 32), ("latent", 4, "perToken", 128, 64, 64),
    ):
        name = f"random-{form}-b{bits}-{grouping}-{tokens}x{width}"
        options, inputs, pairs, _ = random_stored(c, name, form, bits, grouping, tokens, width, kv_dim)
        yield rematerialize_case(name, options, inputs, pairs)
    for which, layer, preset, bits in (("mha", 3, "paper", 4), ("gqa", 3, "paper", 4), ("gqa", 0, "paper", 2), ("gqa", 19, "tuned", 2)):
        options, inputs, pairs, _ = stored_rows(c, which, layer, preset, bits, 128)
        yield rematerialize_case(f"books-{which}-layer{layer}-b{bits}-{preset}", options, inputs, pairs)


def smallest_tie_distance(delta: Tensor, q: R.Quantized, grouping: str, bits: int) -> float:
    """How near any (x - m) / s comes to a rounding tie inside the range; groups as wide as the matrix only."""
    scale, minimum = q.scales.float(), q.mins.float()
    scale, minimum = (scale[:, None], minimum[:, None]) if grouping == "perToken" else (scale[None], minimum[None])
    t = (delta.double() - minimum) / scale
    t = t[(t > -0.5) & (t < 2**bits - 0.5)]  # beyond, the clamp decides
    return float(((t - t.floor()) - 0.5).abs().min())


def cl_cases(c: Context, name: str, x: Tensor, bits, base_bits, grouping, range_, rotation, down: Tensor | None = None) -> Iterator[Case]:
    layers, tokens, hidden_size = x.shape
    stored, accumulators, _ = R.cl_encode(x, bits, base_bits, GROUP, grouping, range_, rotation, down)
    form = "x" if down is None else "latent"
    options = {"bits": bits, "baseBits": base_bits, "groupSize": GROUP, "grouping": grouping, "range": range_, "rotation": rotation, "form": form,
               "tokens": tokens, "hiddenSize": hidden_size}
    tensors = {f"{kind}_{i}": t for i, q in enumerate(stored) for kind, t in q.stored().items()}
    accumulator = torch.stack(accumulators)
    tolerance, extra = {}, {}
    if down is not None:
        extra = {"down": down}
        # One product and one sum per layer.
        per_layer = sum(product_error(stored[i].x_hat, down[i].T) for i in range(1, layers)) + layers * ULP * float(accumulator.abs().max())
        tolerance = {"accumulator": close(per_layer)}
    yield Case(f"cl-encode-{name}", "cl-encode", options, {"x": x, **extra}, {**tensors, "accumulator": accumulator}, tolerance)
    yield Case(f"cl-decode-{name}", "cl-decode", options, {**tensors, **extra}, {"accumulator": accumulator}, tolerance)


def cross_layer(c: Context, name: str, tokens: int, width: int) -> Tensor:
    """Five layers that differ by a tenth of their size, as f16 values (what a cache quantizes)."""
    g = c.generator(name)
    x = [heavy(g, tokens, width)]
    for _ in range(4):
        x.append(x[-1] + 0.1 * heavy(g, tokens, width))
    return R.f16(torch.stack(x)).to(c.device)


def planted_layers(c: Context, range_: str) -> Tensor:
    """Three layers: groups planted in the base, and groups planted in the difference above a base of zeros."""
    base, difference = (torch.from_numpy(P.asymmetric(bits, range_, c.seed + 10 + bits)) for bits in (4, 2))
    g = c.generator(f"cl-planted-{range_}")
    zeros = torch.zeros_like(difference)
    first = torch.cat((base, zeros))
    second = torch.cat((base + 0.1 * torch.randn(base.shape, generator=g), difference))
    third = second + 0.1 * torch.randn(second.shape, generator=g)
    return torch.stack((first, second, third)).to(c.device)


def cl_family(c: Context) -> Iterator[Case]:
    for bits, base, grouping, range_, rotation, tokens, width in (
        (2, 4, "perToken", "minmax", "none", 16, 192), (3, 4, "perChannel", "minmax", "none", 130, 32),
        (1, 4, "perToken", "mse", "hadamard", 40, 64), (4, 8, "perToken", "minmax", "hadamard", 6, 576),
    ):
        name = f"random-b{bits}-{grouping}-{range_}-{rotation}-{tokens}x{width}"
        yield from cl_cases(c, name, cross_layer(c, name, tokens, width), bits, base, grouping, range_, rotation)
    for range_ in ("minmax", "mse"):
        yield from cl_cases(c, f"planted-b2-{range_}", planted_layers(c, range_), 2, 4, "perToken", range_, "none")
    taps = c.taps["mha"]
    for preset in ("paper", "tuned"):
        tuned = preset == "tuned"
        x = R.f16(torch.stack([taps[layer][1 if tuned else 0][:16] for layer in range(2, 7)]))
        yield from cl_cases(c, f"books-mha-b2-{preset}", x, 2, 4, "perToken", "mse" if tuned else "minmax", "hadamard" if tuned else "none")
    # Latent form. Its codes follow float products, so a seed is taken at which nothing is near a rounding tie and
    # which gives the same bytes when every product is off by several units in the last place.
    for bits, range_, rotation, rank in ((2, "minmax", "none", 16), (2, "mse", "hadamard", 16), (4, "minmax", "none", 16)):
        for attempt in range(500):
            name = f"latent-b{bits}-{range_}-{rotation}-r{rank}"
            x = cross_layer(c, f"{name}#{attempt}", 16, 64)
            g = c.generator(f"{name}#{attempt}#down")
            down = torch.stack([torch.linalg.qr(torch.randn(64, rank, generator=g, dtype=torch.float64))[0].T for _ in range(5)])
            down = (R.hadamard(down) if rotation == "hadamard" else down).float().to(c.device)
            stored, _, deltas = R.cl_encode(x, bits, 4, GROUP, "perToken", range_, rotation, down)
            if min(smallest_tie_distance(d, q, "perToken", bits) for d, q in zip(deltas[1:], stored[1:])) < 1e-4:
                continue
            if all(same_under_jitter(c, d, q, bits, range_) for d, q in zip(deltas[1:], stored[1:])):
                break
        else:
            raise RuntimeError(f"no seed without near-ties for {name}")
        yield from cl_cases(c, name, x, bits, 4, "perToken", range_, rotation, down)


def same_under_jitter(c: Context, delta: Tensor, q: R.Quantized, bits: int, range_: str) -> bool:
    for trial in range(4):
        noise = torch.rand(delta.shape, generator=c.generator(f"jitter{trial}")).to(delta.device) * 2 - 1
        again = R.quantize(delta + noise * 2.0**-22 * delta.abs().max(), bits, GROUP, "perToken", range_)
        if not all(torch.equal(a, b) for a, b in zip(again.stored().values(), q.stored().values())):
            return False
    return True


def attend_case(name: str, options: dict, inputs: dict, pairs: list, stored: list, query: Tensor, kv_heads: int, theta: float, layout: str) -> Case:
    tokens = options["tokens"]
    heads, head_dim = query.shape
    keys, values = (R.product(x, w) for x, w in pairs)
    output = R.attend(query, keys.view(tokens, kv_heads, -1), values.view(tokens, kv_heads, -1), tokens, theta, layout)
    options = {**options, "heads": heads, "kvHeads": kv_heads, "headDim": head_dim, "layout": layout, "theta": theta, "position": tokens}
    minima = [minima_of(q, options[grouping]) for q, grouping in zip(stored, ("keyGrouping", "valueGrouping"))]
    error = attend_error(query, pairs, minima, kv_heads, tokens, theta, layout)
    return Case(f"attend-{name}", "attend", options, {"query": query, **inputs}, {"output": output}, {"output": close(error)})


def attend_family(c: Context) -> Iterator[Case]:
    for form, bits, grouping, tokens, width, heads, kv_heads, head_dim, layout in (
        ("x", 4, "perToken", 128, 64, 2, 2, 32, "half"), ("x", 3, "perToken", 256, 64, 4, 2, 32, "interleaved"),
        ("latent", 2, "perChannel", 384, 64, 8, 2, 32, "half"), ("latent", 8, "perToken", 128, 64, 4, 1, 64, "interleaved"),
    ):
        name = f"random-{form}-b{bits}-{grouping}-{tokens}x{width}-{layout}"
        query = torch.randn(heads, head_dim, generator=c.generator(name + "-query")).to(c.device)
        yield attend_case(name, *random_stored(c, name, form, bits, grouping, tokens, width, kv_heads * head_dim), query, kv_heads, 10000.0, layout)
    yield from attend_planted(c)
    for which, layer, preset, bits in (("mha", 10, "tuned", 2), ("gqa", 3, "paper", 4), ("gqa", 10, "tuned", 2)):
        options, inputs, pairs, stored = stored_rows(c, which, layer, preset, bits, 256)
        config, weights = c.models[which].config, c.models[which].layers[layer]
        query = R.product(c.taps[which][layer][0][255:256], weights.w_q).view(config.heads, config.head_dim)
        yield attend_case(f"books-{which}-layer{layer}-b{bits}-{preset}", options, inputs, pairs, stored, query, config.kv_heads, config.theta, config.layout)


def mild(g: torch.Generator, tokens: int, channels: int) -> Tensor:
    """Values without outliers, so that no token outweighs all others unless the query asks for it."""
    return torch.randn(tokens, channels, generator=g) * torch.exp(0.3 * torch.randn(1, channels, generator=g))


def pointed_query(c: Context, name: str, keys: Tensor, heads: int, theta: float, layout: str) -> Tensor:
    """Queries of every temperature, [heads, headDim] before RoPE; keys [tokens, kvHeads, headDim] before RoPE.

    In turn: nearly equal weights; the first and the newest token about 2 to 1, the rest a tenth; weights that range over some orders; the newest
    token and one in the middle, with all others below the smallest f16.
    """
    tokens, kv_heads, head_dim = keys.shape
    angles = R.rope_angles(torch.arange(tokens + 1, device=keys.device), head_dim, theta)
    k = R.rope(keys, angles[:tokens], layout).double()
    g = c.generator(name + "-query")
    queries = []
    for h in range(heads):
        own = k[:, h // (heads // kv_heads)]
        random = torch.randn(head_dim, generator=g, dtype=torch.float64).to(keys.device)
        if h % 4 in (0, 2):
            q = random * (0.05 if h % 4 == 0 else 2.0) * math.sqrt(head_dim) / (own @ random).std()
        else:
            # The shortest vector with these scores at the two tokens, above what the others have.
            first, second, height = (0, tokens - 1, math.log(10 * tokens)) if h % 4 == 1 else (tokens - 1, tokens // 2, 25.0)
            pair = own[[first, second]]
            wanted = torch.tensor([height, height - math.log(2)], dtype=torch.float64, device=keys.device) * math.sqrt(head_dim)
            q = torch.linalg.lstsq(pair, wanted).solution if keys.device.type == "cpu" else pair.T @ torch.linalg.solve(pair @ pair.T, wanted)
        queries.append(q)
    # Back to before RoPE at the position of the query: turned the other way.
    return R.rope(torch.stack(queries)[None], -angles[tokens : tokens + 1], layout)[0]


def attend_planted(c: Context) -> Iterator[Case]:
    """Every token matters in one head or another, and no count of tokens is one of tiles, but where groups run along tokens."""
    for form, bits, grouping, tokens, width, heads, kv_heads, head_dim, layout in (
        ("x", 4, "perToken", 200, 64, 4, 1, 32, "half"), ("x", 8, "perToken", 131, 64, 8, 2, 32, "interleaved"),
        ("x", 2, "perToken", 65, 128, 4, 4, 32, "half"), ("x", 3, "perChannel", 128, 64, 4, 2, 64, "half"),
        ("latent", 4, "perChannel", 256, 64, 8, 2, 32, "half"), ("latent", 8, "perToken", 129, 64, 4, 1, 64, "interleaved"),
    ):
        name = f"planted-{form}-b{bits}-{grouping}-{tokens}x{width}-{layout}"
        options, inputs, pairs, stored = random_stored(c, name, form, bits, grouping, tokens, width, kv_heads * head_dim, mild)
        keys = R.product(*pairs[0]).view(tokens, kv_heads, head_dim)
        query = pointed_query(c, name, keys, heads, 10000.0, layout)
        yield attend_case(name, options, inputs, pairs, stored, query, kv_heads, 10000.0, layout)


# --- calibrated caches -------------------------------------------------------------------------------------------


def symmetric_case(name: str, x: Tensor, bits: Tensor) -> Case:
    """x [tokens, channels] in blocks of 128 tokens, bits [channels]."""
    blocks = [C.symmetric(x[start:end], bits) for start, end in R.spans(len(x), GROUP)]
    outputs = {kind: torch.cat([getattr(each, kind) for each in blocks]) for kind in ("packed", "scales", "codes", "z_hat")}
    outputs["x_hat"] = outputs.pop("z_hat")
    return Case(f"symmetric-{name}", "symmetric", {"groupSize": GROUP}, {"x": x, "bits": bits.to(torch.uint8)}, outputs, {})


def symmetric_family(c: Context) -> Iterator[Case]:
    mixed = lambda channels, g: torch.tensor(C.BITS)[torch.randint(0, len(C.BITS), (channels,), generator=g)].to(c.device)
    for bits in C.BITS[1:]:
        for tokens in (128, 130, 37):  # whole, ragged with a second block of two, a single short block
            name = f"heavy-b{bits}-{tokens}"
            yield symmetric_case(name, heavy(c.generator(name), tokens, 48).to(c.device), torch.full((48,), bits, device=c.device))
        # Values on the border of two cells: multiples of a power of two in groups whose scale is one of them or not.
        g = c.generator(f"symmetric-tie{bits}")
        x = torch.randint(-(2**bits), 2**bits + 1, (128, 48), generator=g) * 2.0 ** torch.randint(-6, 4, (1, 48), generator=g)
        yield symmetric_case(f"tie-b{bits}", x.float().to(c.device), torch.full((48,), bits, device=c.device))
    for kind in ("constant", "subnormal-f32", "subnormal-f16", "outlier"):
        g = c.generator(f"symmetric-{kind}")
        x = adversarial(kind, g, 2, "perChannel", 130, 48) if kind != "outlier" else adversarial(kind, g, 2, "perToken", 130, 48)
        yield symmetric_case(kind, x.clamp(-2e4, 2e4).to(c.device), mixed(48, g))
    channels = list(P.all_symmetric(c.seed))
    x = torch.from_numpy(np.stack([group for _, group in channels], axis=1)).contiguous()
    yield symmetric_case("planted", x.to(c.device), torch.tensor([bits for bits, _ in channels], device=c.device))
    g = c.generator("symmetric-zero")
    x = torch.randn(256, 48, generator=g)
    x[:, ::3] = 0
    x[:128, 1::3] = -0.0
    yield symmetric_case("zero", x.to(c.device), mixed(48, g))
    for width in (64, 128, 384, 576):
        g = c.generator(f"symmetric-mixed{width}")
        yield symmetric_case(f"mixed-{width}", heavy(g, 256 if width < 300 else 128, width).to(c.device), mixed(width, g))


def random_transform(c: Context, name: str, layers: int, width: int, predict: int) -> list[C.LayerTransform]:
    g = c.generator(name)
    result = []
    for layer in range(layers):
        turn = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0]
        gain = torch.exp(torch.linspace(1, -2, width, dtype=torch.float64))
        half = lambda t: t.to(torch.float16).float().to(c.device)
        matrices = [half(0.4 / predict * torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0]) for p in range(1, predict + 1) if p <= layer]
        offset = (0.2 * torch.randn(width, generator=g)).to(c.device)
        result.append(C.LayerTransform(half(turn / gain), half(gain[:, None] * turn.T), (gain**2).float().to(c.device), offset, matrices))
    return result


def calibrated_family(c: Context) -> Iterator[Case]:
    """The write and the read of a few layers. Codes follow float products, so a seed is taken at which nothing is near a border."""
    layers, tokens = 4, 128
    distortion = {0: 1.0, 1: 0.405, 2: 0.139, 3: 0.0443, 4: 0.013, 8: 6.2e-5}
    for predict, width, average in ((0, 48, 4.25), (1, 64, 2.25), (2, 32, 3.25)):
        for attempt in range(2000):
            name = f"p{predict}-n{width}"
            transforms = random_transform(c, f"calibrated-{name}#{attempt}", layers, width, predict)
            g = c.generator(f"calibrated-{name}#{attempt}#x")
            x = R.f16(torch.stack([(torch.randn(tokens, width, generator=g).to(c.device).double() @ t.decode.double()).float() for t in transforms]))
            bits = [b.to(c.device) for b in C.allocate([t.importance for t in transforms], width, average, distortion)]
            run = calibrated_layers(x, transforms, bits, M.to_f32)
            same = lambda other: all(torch.equal(a.packed, b.packed) and torch.equal(a.scales.view(torch.uint8), b.scales.view(torch.uint8)) for a, b in zip(run[0], other[0]))
            if all(same(calibrated_layers(x, transforms, bits, M.ulp_jitter(seed, c.device))) for seed in range(6)):
                break
        else:
            raise RuntimeError(f"no seed far from borders for {name}")
        stored, coordinates, carriers = run
        options = {"predict": predict, "groupSize": GROUP, "tokens": tokens, "width": width, "layers": layers}
        matrices = {f"predict_{p}_{i}": m for i, t in enumerate(transforms) for p, m in enumerate(t.predict, 1)}
        plan = {"bits": torch.stack(bits).to(torch.uint8), "decode": torch.stack([t.decode for t in transforms]),
                "offset": torch.stack([t.offset for t in transforms]), **matrices}
        tensors = {f"{kind}_{i}": getattr(each, kind) for i, each in enumerate(stored) for kind in ("packed", "scales")}
        error, worst = 0.0, 0.0
        for i, t in enumerate(transforms):  # an error below is carried on by the prediction, one product and one sum come on top
            below = sum(product_error(coordinates[i - p], m.T) for p, m in enumerate(t.predict, 1))
            error = sum(error * float(m.abs().sum(0).max()) for m in t.predict) + below + 4 * ULP * float(coordinates[i].abs().max())
            worst = max(worst, error)
        carrier_error = max(worst * float(t.decode.abs().sum(0).max()) + product_error(coordinates[i], t.decode.T) for i, t in enumerate(transforms))
        outputs = {"y": torch.stack(coordinates), "x_hat": torch.stack(carriers)}
        tolerance = {"y": close(worst), "x_hat": close(carrier_error)}
        yield Case(f"calibrated-encode-{name}", "calibrated-encode", options, {"x": x, "encode": torch.stack([t.encode for t in transforms]), **plan}, {**tensors, **outputs}, tolerance)
        yield Case(f"calibrated-decode-{name}", "calibrated-decode", options, {**tensors, **plan}, outputs, tolerance)


def calibrated_layers(x: Tensor, transforms: list, bits: list[Tensor], jitter) -> tuple[list, list[Tensor], list[Tensor]]:
    stored, coordinates, carriers = [], [], []
    for i, t in enumerate(transforms):
        y = jitter(x[i].double() @ t.encode.double())
        p = jitter(torch.zeros_like(y).double() + C.expected(t, coordinates[::-1]))
        stored.append(C.symmetric(y - p, bits[i]))
        coordinates.append(p + stored[-1].z_hat)
        carriers.append(jitter(coordinates[-1].double() @ t.decode.double()))
    return stored, coordinates, carriers


def allocate_family(c: Context) -> Iterator[Case]:
    distortion = {0: 1.0, 1: 0.425, 2: 0.15, 3: 0.047, 4: 0.014, 8: 1e-4}
    for layers, channels, average in ((1, 16, 2.25), (20, 128, 2.25), (20, 128, 0.5), (30, 384, 3.25), (20, 256, 1.275), (4, 32, 8.0)):
        g = c.generator(f"allocate{layers}x{channels}")
        importance = torch.exp(3 * torch.randn(layers, channels, generator=g)).sort(1, descending=True).values
        importance[:, ::7] = importance[:, :1] / 4  # equals, within a layer and a power of two apart
        importance[-1] = importance[0]
        elements = channels if channels != 256 else 2 * channels
        bits = C.allocate(list(importance), elements, average, distortion)
        options = {"distortion": {str(b): d for b, d in distortion.items()}, "average": average, "elements": elements, "groupSize": GROUP}
        yield Case(f"allocate-{layers}x{channels}-{average}", "allocate", options, {"importance": importance}, {"bits": torch.stack(bits).to(torch.uint8)}, {})


def metric_family(c: Context) -> Iterator[Case]:
    """How much an error of a key or a value matters, per KV head: docs/algorithm.md, "What an error costs"."""
    distances = [0, 1, 2, 5, 11, 32, 100, 355, 1000, 2047]
    for heads, kv_heads, head_dim, layout in ((4, 4, 16, "half"), (6, 2, 16, "half"), (8, 2, 32, "interleaved")):
        g = c.generator(f"metric{heads}{kv_heads}{layout}")
        queries = torch.randn(64, heads, head_dim, generator=g).to(c.device)
        w_o = torch.randn(48, heads * head_dim, generator=g).to(c.device)
        shared = heads // kv_heads
        angles = R.rope_angles(torch.tensor(distances, device=c.device), head_dim, 10000.0)
        omega_k = torch.zeros(kv_heads, head_dim, head_dim, dtype=torch.float64, device=c.device)
        for angle in angles:
            turned = R.rope(queries, angle.expand(len(queries), -1), layout).double()
            omega_k += torch.einsum("thd,the->hde", turned, turned).view(kv_heads, shared, head_dim, head_dim).sum(1)
        omega_k /= len(queries) * len(distances) * head_dim
        out = w_o.double().view(48, heads, head_dim)
        omega_v = torch.einsum("ohd,ohe->hde", out, out).view(kv_heads, shared, head_dim, head_dim).sum(1)
        options = {"heads": heads, "kvHeads": kv_heads, "headDim": head_dim, "layout": layout, "theta": 10000.0, "distances": distances}
        # Sums of this many f32 products, and angles in f32.
        bound = lambda omega, terms, angle: close(float(omega.abs().max()) * ULP * (terms + 2 * angle))
        tolerance = {"omega_k": bound(omega_k, len(queries) * len(distances) * shared, max(distances)), "omega_v": bound(omega_v, 48 * shared, 0)}
        yield Case(f"metric-{heads}q{kv_heads}kv-{layout}", "metric", options, {"queries": queries, "w_o": w_o}, {"omega_k": omega_k.float(), "omega_v": omega_v.float()}, tolerance)


# --- layer, decode, perplexity ---------------------------------------------------------------------------------


def far_from_f16_ties(row: Tensor) -> bool:
    """No value would round to another f16 if it were one f32 unit larger or smaller."""
    up = torch.nextafter(row, torch.full_like(row, math.inf))
    down = torch.nextafter(row, torch.full_like(row, -math.inf))
    return bool((R.f16(up) == R.f16(row)).all() and (R.f16(down) == R.f16(row)).all())


def layer_family(c: Context) -> Iterator[Case]:
    hidden_size, ff, tokens = 64, 96, 128
    for spec, heads, kv_heads, layout, *small in (
        ("kv", 2, 2, "half"), ("kivi:4", 2, 2, "half"), ("kivi:2", 4, 2, "interleaved"), ("xquant:4@paper", 2, 2, "half"),
        ("xquant:2@tuned?sinks=0", 2, 2, "interleaved"), ("xquant:3@paper", 4, 2, "half"),
        ("xquant:2@tuned?sinks=0", 4, 2, "interleaved"),
        ("xquant:4@paper?form=x", 4, 2, "half"), ("xquant-cl:2@tuned?sinks=0", 2, 2, "half"),
        ("kv", 4, 2, "half", True), ("xquant:4@paper", 2, 2, "interleaved", True),
    ):
        config = M.Config(1, hidden_size, heads, kv_heads, hidden_size // heads, 10000.0, 1e-5, layout)
        # Streams down to 10^-3, beside which the epsilon of the norm is not small.
        name = f"{'small-' if small else ''}{file_name(spec)}-{heads}q{kv_heads}kv-{layout}"
        for attempt in range(1000):
            g = c.generator(f"layer-{name}#{attempt}")
            matrix = lambda rows, columns: (torch.randn(rows, columns, generator=g) / math.sqrt(columns)).to(c.device).double()
            gain = lambda: (1 + 0.3 * torch.randn(hidden_size, generator=g)).to(c.device).double()
            layer = M.Layer(gain(), matrix(hidden_size, hidden_size), matrix(config.kv_dim, hidden_size), matrix(config.kv_dim, hidden_size),
                            matrix(hidden_size, hidden_size), gain(), matrix(ff, hidden_size), matrix(ff, hidden_size), matrix(hidden_size, ff))
            hidden = torch.randn(tokens, hidden_size, generator=g)
            hidden = (hidden * 10.0 ** -(torch.arange(tokens)[:, None] % 4) if small else hidden).to(c.device)
            cache = M.create_cache(spec, config, [layer])[0]
            normalized = M.normalize(hidden, config.epsilon, M.to_f32)
            kept = cache.incoming((normalized.double() * layer.attention_norm).float(), normalized, M.to_f32)
            if all(far_from_f16_ties(row) for row in kept):
                break
        else:
            raise RuntimeError(f"no seed far from f16 ties for {name}")
        run = lambda jitter: M.block(hidden, layer, M.create_cache(spec, config, [layer])[0], config, tokens, 0, True, jitter)
        output = run(M.to_f32)
        # The block's condition, measured: what one f32 unit everywhere does to it, times the longest sum.
        moved = max(float((run(M.ulp_jitter(seed, c.device)) - output).abs().max()) for seed in range(5))
        weights = {name_: getattr(layer, name_).float() for name_ in M.GGUF_NAMES}
        if cache.options.form == "latent":
            p = cache.projection
            weights |= {"down_k": p.down_k, "up_k": p.up_k, "down_v": p.down_v, "up_v": p.up_v}
        options = {"cache": spec, "heads": heads, "kvHeads": kv_heads, "headDim": config.head_dim, "layout": layout, "theta": 10000.0, "epsilon": 1e-5}
        yield Case(f"layer-{name}", "layer", options, {"hidden": hidden, **weights}, {"output": output}, {"output": close(ff * moved)})


SPECS = ("kv", "kivi:4", "kivi:2", "xquant:4@paper", "xquant:2@tuned?sinks=0", "xquant-cl:2@paper", "xquant-cl:2@tuned?sinks=0")
GQA_MORE = ("xquant:4@paper?form=x", "xquant-cl:2@tuned?form=x&sinks=0")
GENERATED = 64
JITTERS = 2
SPREAD = 8  # times the largest change seen under jitter
WORKERS = 8
PROMPTS = ((300, 200), (4100, 264), (7000, 160), (9500, 300), (12000, 176), (2000, 184), (14000, 232))  # start, length


def file_name(spec: str) -> str:
    """A specification as part of a file name; names do not say that there are no sinks."""
    spec = spec.replace("?sinks=0", "").replace("&sinks=0", "")
    return "".join("-" if ch in "@?=" else ch for ch in spec.replace(":", ""))


def decode_task(path: Path, spec: str, windows: np.ndarray, device: str) -> dict:
    """Several prompts are tried; the first is taken whose greedy ids do not depend on the last bit of any float and
    whose two best logits are never closer than the tolerance. Failing that, the one that comes nearest to it."""
    torch.set_num_threads(1)
    model = M.Model(path, device)
    tokens = torch.from_numpy(windows).to(device).flatten()
    best = None
    for start, length in PROMPTS:
        prompt = tokens[start : start + length]
        ids, logits, gaps = M.greedy(model, spec, prompt, GENERATED)
        trials = [M.greedy(model, spec, prompt, GENERATED, M.ulp_jitter(seed, device)) for seed in range(JITTERS)]
        stable = all(torch.equal(ids, trial[0]) for trial in trials)
        moved = max(max(float((t[1] - logits).abs().max()), float((t[2] - gaps).abs().max())) for t in trials)
        margin = float(gaps.min()) / (SPREAD * moved)
        if best is None or (stable, margin) > (best["stable"], best["margin"]):
            arrays = {"prompt": prompt.int(), "ids": ids.int(), "last_logits": logits, "top_gap": gaps}
            best = {"stable": stable, "margin": margin, "start": start, "moved": moved, **{name: a.cpu().numpy() for name, a in arrays.items()}}
        if stable and margin > 1:
            break
    return best


def perplexity_task(path: Path, spec: str, windows: np.ndarray, device: str) -> dict:
    torch.set_num_threads(1)
    model = M.Model(path, device)
    windows = torch.from_numpy(windows).to(device)
    nll = M.perplexity_windows(model, spec, windows)
    trials = [M.perplexity_windows(model, spec, windows, M.ulp_jitter(seed, device)) for seed in range(JITTERS)]
    return {"window_nll": nll.cpu().numpy(), "moved": max(float((trial - nll).abs().max()) for trial in trials)}


MODEL_TASKS = {"decode": decode_task, "perplexity": perplexity_task}


def start_model_runs(c: Context, families: set[str]) -> None:
    """Starts what takes long in processes of their own, beside everything else: decoding waits for launches and not
    for the GPU, so that runs share it well."""
    pool = ProcessPoolExecutor(WORKERS if c.device == "cuda" else 1, mp_context=get_context("spawn"))
    for family in sorted(families & set(MODEL_TASKS)):
        c.pending[family] = [
            (which, spec, pool.submit(MODEL_TASKS[family], model.path, spec, c.windows.cpu().numpy(), c.device))
            for which, model in c.models.items()
            for spec in SPECS + (GQA_MORE if which == "gqa" else ())
        ]
    pool.shutdown(wait=False)  # ends when the last run has


def decode_family(c: Context) -> Iterator[Case]:
    for which, spec, future in c.pending["decode"]:
        run = future.result()
        ids, logits, gaps = (torch.from_numpy(run[name]) for name in ("ids", "last_logits", "top_gap"))
        print(f"  decode {which} {spec}: prompt at {run['start']}, ids stable: {run['stable']}, smallest gap "
              f"{float(gaps.min()):.4f} = {run['margin']:.2f} x tolerance", flush=True)
        options = {"model": c.models[which].name, "cache": spec, "promptStart": run["start"]}
        tolerance = {name: close(SPREAD * run["moved"]) for name in ("last_logits", "top_gap")}
        yield Case(f"decode-books-{which}-{file_name(spec)}", "decode", options, {"prompt": torch.from_numpy(run["prompt"])},
                   {"ids": ids, "last_logits": logits, "top_gap": gaps}, tolerance)


def perplexity_family(c: Context) -> Iterator[Case]:
    shape = {"windows": len(c.windows), "windowLength": c.windows.shape[1]}
    yield Case("heldout-tokens", "tokens", shape, {}, {"tokens": c.windows.flatten().int()}, {})
    baseline: dict[str, float] = {}
    for which, spec, future in c.pending["perplexity"]:
        run = future.result()
        nll, moved = torch.from_numpy(run["window_nll"]), run["moved"]
        perplexity = float(nll.mean().exp())
        baseline.setdefault(which, perplexity)
        print(f"  perplexity {which} {spec}: {perplexity:.4f} ({perplexity - baseline[which]:+.4f}), a window moves by {moved:.1e} under jitter", flush=True)
        options = {"model": c.models[which].name, "cache": spec, **shape, "perplexity": perplexity}
        yield Case(f"perplexity-books-{which}-{file_name(spec)}", "perplexity", options, {}, {"window_nll": nll}, {"window_nll": close(SPREAD * moved)})


FAMILIES = {
    "quantize": quantize_family, "pack": pack_family, "rotate": rotate_family, "rope": rope_family, "svd": svd_family,
    "rematerialize": rematerialize_family, "cl": cl_family, "attend": attend_family, "layer": layer_family,
    "symmetric": symmetric_family, "calibrated": calibrated_family, "allocate": allocate_family, "metric": metric_family,
    "decode": decode_family, "perplexity": perplexity_family,
}
