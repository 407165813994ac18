"""What else people keep keys and values in, in PyTorch: KVQuant, the blocks of llama.cpp, Lloyd-Max levels.

Independent of the TypeScript. Each function takes keys or values of whole windows and gives what they read back as. As in
reference.py, what decides a code is f32 with one rounding an operation.

    kvquant:B     KVQuant-B-1% (arXiv 2401.18079): keys before RoPE in calibrated ranges a channel, values in ranges a token;
                  what lies beyond them is kept as it is
    q4_0, q8_0    the cache types of llama.cpp: keys after RoPE, every head rotated by a Hadamard matrix, blocks of 32 channels
    lloyd-max:B   every head rotated likewise, keys before RoPE; the norm of a head of a token in f16, and its channels in
                  the levels that are best for a normal variable (the idea of TurboQuant, arXiv 2504.19874)
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

import reference as R

NAMES = ("kvquant", "q4_0", "q8_0", "lloyd-max")
OUTLIERS = 0.01
GGML_BLOCK = 32

# --- KVQuant -----------------------------------------------------------------------------------------------------


@dataclass
class Levels:
    """One layer of a calibration file, f32."""

    lower: Tensor  # [kvDim]
    upper: Tensor
    keys: Tensor  # levels [2^bits]
    values: Tensor


@functools.lru_cache(maxsize=4)
def read_levels(path: Path, bits: int, device: str) -> list[Levels]:
    """Of the file that calibrate_kvquant.py writes, those of 1 % of outliers and no sink, by layer."""
    with safe_open(path, framework="pt", device=device) as file:
        settings = json.loads(file.metadata()["settings"])
        if {"bits": bits, "outlierFraction": OUTLIERS, "sink": 0} not in settings:
            raise SystemExit(f"{path} has no levels of {bits} bits with {OUTLIERS} of outliers: {settings}")
        ranges = "outliers.0.01.sink.0."
        names = (f"{ranges}key_lower", f"{ranges}key_upper", f"{ranges}bits.{bits}.key_levels", f"{ranges}bits.{bits}.value_levels")
        return [Levels(*each) for each in zip(*(file.get_tensor(name).float() for name in names))]


def nearest(levels: Tensor, normalized: Tensor) -> Tensor:
    """The nearest level of each value; the lower one of two that are equally near."""
    best = torch.full_like(normalized, float(levels[0]))
    distance = (normalized - levels[0]).abs()
    for level in levels[1:]:
        other = (normalized - level).abs()
        best = torch.where(other < distance, level, best)
        distance = torch.minimum(distance, other)
    return best


def in_range(x: Tensor, center: Tensor, radius: Tensor, levels: Tensor) -> Tensor:
    """center, radius: already f16, of the shape of x."""
    divisor = torch.where(radius == 0, torch.ones_like(radius), radius)
    normalized = R.divide(x - center, divisor)
    value = torch.where(radius == 0, levels[0].expand_as(x), nearest(levels, normalized))
    return value * radius + center


def kvquant_keys(keys: Tensor, levels: Levels) -> Tensor:
    """keys [tokens, kvDim] before RoPE."""
    center, radius = R.f16((levels.upper + levels.lower) * 0.5), R.f16((levels.upper - levels.lower) * 0.5)
    inner = in_range(keys, center.expand_as(keys), radius.expand_as(keys), levels.keys)
    return torch.where((keys > levels.upper) | (keys < levels.lower), keys, inner)


def kvquant_values(values: Tensor, levels: Levels) -> Tensor:
    """values [tokens, kvDim]: of a token, what lies on or beyond its quantiles is kept."""
    ascending = values.double().sort(1).values
    at = lambda fraction: interpolated(ascending, fraction)[:, None]
    outside = (values.double() >= at(1 - OUTLIERS / 2)) | (values.double() <= at(OUTLIERS / 2))
    low = values.masked_fill(outside, math.inf).amin(1, keepdim=True)
    high = values.masked_fill(outside, -math.inf).amax(1, keepdim=True)
    empty = outside.all(1, keepdim=True)
    middle = lambda x: R.f16(torch.where(empty, torch.zeros_like(low), x * 0.5 + 0.0)).expand_as(values)
    return torch.where(outside, values, in_range(values, middle(high + low), middle(high - low), levels.values))


def interpolated(ascending: Tensor, fraction: float) -> Tensor:
    """Of sorted rows [rows, n]: linear interpolation at rank fraction * (n - 1)."""
    rank = fraction * (ascending.shape[1] - 1)
    below = math.floor(rank)
    above = min(below + 1, ascending.shape[1] - 1)
    return ascending[:, below] + (rank - below) * (ascending[:, above] - ascending[:, below])


# --- Rotated heads -------------------------------------------------------------------------------------------------


def by_head(x: Tensor, head_dim: int, function) -> Tensor:
    """x [tokens, kvDim] -> rotated head by head, through `function`, and back."""
    heads = R.hadamard(x.reshape(-1, head_dim))
    return R.hadamard(function(heads)).view(x.shape)


def q4_0(x: Tensor) -> Tensor:
    """x [..., multiple of 32] -> what blocks of 4 bits with an f16 step give back. The largest magnitude has code 0 (-8 steps)."""
    blocks = x.reshape(-1, GGML_BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    step = largest / torch.full_like(largest, -8.0)
    # Codes are taken against the step in f32; the reader has it in f16.
    inverse = torch.where(step == 0, torch.zeros_like(step), R.divide(torch.ones_like(step), torch.where(step == 0, torch.ones_like(step), step)))
    codes = (blocks * inverse + 8.5).trunc().clamp_max(15)
    return ((codes - 8) * R.f16(step)).view(x.shape)


def q8_0(x: Tensor) -> Tensor:
    """The same with 8 bits, symmetric; halves are rounded away from zero."""
    blocks = x.reshape(-1, GGML_BLOCK)
    step = R.divide(blocks.abs().amax(1, keepdim=True), torch.tensor(127.0))
    inverse = torch.where(step == 0, torch.zeros_like(step), R.divide(torch.ones_like(step), torch.where(step == 0, torch.ones_like(step), step)))
    scaled = blocks * inverse
    codes = (scaled.abs() + 0.5).floor() * scaled.sign()
    return (codes * R.f16(step)).view(x.shape)


@functools.cache
def lloyd_max_levels(bits: int) -> tuple[float, ...]:
    """The 2^bits levels with the least mean squared error for a unit normal variable (Max 1960, Lloyd 1982).

    Levels are the means of their cells, cells end in the middle between levels: repeated until nothing moves.
    """
    density = lambda t: math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    below = lambda t: math.erfc(-t / math.sqrt(2)) / 2
    count = 2**bits
    levels = [4 * (i + 0.5) / count - 2 for i in range(count)]
    while True:
        ends = [-40.0, *((a + b) / 2 for a, b in zip(levels, levels[1:])), 40.0]
        means = [(density(a) - density(b)) / (below(b) - below(a)) for a, b in zip(ends, ends[1:])]
        moved = max(abs(a - b) for a, b in zip(means, levels))
        levels = means
        if moved < 1e-12:
            return tuple(levels)


def lloyd_max(heads: Tensor, bits: int) -> Tensor:
    """heads [rows, headDim], rotated -> f16 norm times the nearest levels of a normal variable."""
    n = heads.shape[1]
    norm = R.f16(heads.double().square().sum(1, keepdim=True).sqrt().float())
    scale = norm * torch.tensor(1 / math.sqrt(n), dtype=torch.float32, device=heads.device)
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    levels = torch.tensor(lloyd_max_levels(bits), dtype=torch.float32, device=heads.device)
    return nearest(levels, R.divide(heads, divisor)) * scale


def rotated_heads(name: str, bits: int, keys: Tensor, values: Tensor, head_dim: int, angles: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """keys before RoPE and values [tokens, kvDim] as a cache of rotated heads gives them back. angles [tokens, headDim / 2]."""
    if name == "lloyd-max":
        back = lambda heads: lloyd_max(heads, bits)
        return by_head(keys, head_dim, back), by_head(values, head_dim, back)
    back = {"q4_0": q4_0, "q8_0": q8_0}[name]
    # These keep keys with their positions; turning the result back is exact but for a rounding.
    turned = R.rope(keys.view(len(keys), -1, head_dim), angles, layout).view(keys.shape)
    kept = by_head(turned, head_dim, back)
    keys = R.rope(kept.view(len(keys), -1, head_dim), -angles, layout).view(keys.shape)
    return keys, by_head(values, head_dim, back)
