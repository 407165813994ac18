"""Calibrated caches in PyTorch: the symmetric quantizer, the allocation of bits, and a layer's write and read.

Written from the specification, independent of the TypeScript. As in reference.py, whatever decides stored bits is f32 with
one rounding an operation, and float products are summed in f64 and rounded to f32 once.

Row vectors times matrices throughout. For layer i with carrier c_i [tokens, n] (X [Wk | Wv], or X itself):

    write   z_i = c_i E_i - (sum over p of y_{i-p} M_{i,p} + t_i),  z_i quantized per channel, bits by importance
    read    y_i = sum over p of y_{i-p} M_{i,p} + t_i + z^_i        c^_i = y_i D_i
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

import reference as R

BITS = (0, 1, 2, 3, 4, 8)
SCALE_BITS = 16  # an f16 scale a group
# Step of the best uniform quantizer of a unit normal variable, in standard deviations.
STEP = {1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352, 8: 0.0308}
MULTIPLES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5)

# --- The symmetric quantizer -----------------------------------------------------------------------------------


def four_lanes(values: Tensor) -> Tensor:
    """Sum of [groups, n] in four lanes (index mod 4), each in index order, then (l0 + l1) + (l2 + l3) -> [groups, 1]."""
    padding = -values.shape[1] % 4
    values = torch.nn.functional.pad(values, (0, padding)).view(values.shape[0], -1, 4)
    lanes = torch.zeros_like(values[:, 0])
    for step in range(values.shape[1]):
        lanes = lanes + values[:, step]
    return ((lanes[:, 0] + lanes[:, 1]) + (lanes[:, 2] + lanes[:, 3]))[:, None]


def symmetric_codes(z: Tensor, scale: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """z [groups, n], scale [groups, 1] (already f16) -> codes (as f32) and z^. A scale of 0 gives code 2^(b-1) and z^ = 0."""
    half = float(2 ** (bits - 1))
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = (R.divide(z, divisor).floor() + half).clamp(0, 2 * half - 1)
    codes = torch.where(scale == 0, torch.full_like(codes, half), codes)
    return codes, (codes + (0.5 - half)) * scale


def symmetric_groups(z: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """z [groups, n] f32 -> codes u8 [groups, n], scales f16 [groups], z^ f32 [groups, n]."""
    count = torch.tensor(float(z.shape[1]), dtype=torch.float32)
    rms = R.divide(four_lanes(z * z), count).sqrt()
    step = torch.tensor(STEP[bits], dtype=torch.float32, device=z.device)
    best = None
    for multiple in MULTIPLES:
        m = torch.tensor(multiple, dtype=torch.float32, device=z.device)
        scale = R.f16((m * step) * rms)
        codes, z_hat = symmetric_codes(z, scale, bits)
        difference = z - z_hat
        error = four_lanes(difference * difference)
        if best is None:
            best = [error, scale, codes, z_hat]
            continue
        better = error < best[0]  # a later one only if strictly better
        best = [torch.where(better, new, old) for new, old in zip((error, scale, codes, z_hat), best)]
    _, scale, codes, z_hat = best
    if not torch.isfinite(scale).all():
        raise ValueError("a scale too large for f16")
    return codes.to(torch.uint8), scale[:, 0].to(torch.float16), z_hat


@dataclass
class Symmetric:
    """A block [tokens, channels] as stored, channel after channel, and what it reads back as."""

    packed: Tensor  # u8
    scales: Tensor  # f16, one for each channel that has bits
    codes: Tensor  # u8 [tokens, channels]; 0 in channels without bits
    z_hat: Tensor  # f32 [tokens, channels]; 0 in channels without bits


def symmetric(z: Tensor, bits: Tensor) -> Symmetric:
    """z [tokens, channels] f32, one group a channel; bits int [channels], each of BITS."""
    codes = torch.zeros(z.shape, dtype=torch.uint8, device=z.device)
    z_hat = torch.zeros_like(z)
    packed: dict[int, Tensor] = {}
    scales: dict[int, Tensor] = {}
    for width in BITS[1:]:
        channels = (bits == width).nonzero()[:, 0]
        if not len(channels):
            continue
        group_codes, group_scales, group_hat = symmetric_groups(z[:, channels].T.contiguous(), width)
        codes[:, channels], z_hat[:, channels] = group_codes.T, group_hat.T
        for channel, row, scale in zip(channels.tolist(), R.pack(group_codes, width), group_scales):
            packed[channel], scales[channel] = row, scale
    order = sorted(packed)
    empty = torch.empty(0, dtype=torch.uint8, device=z.device)
    return Symmetric(
        torch.cat([packed[k] for k in order]) if order else empty,
        torch.stack([scales[k] for k in order]) if order else empty.to(torch.float16), codes, z_hat)


def symmetric_values(z: Tensor, bits: Tensor, block: int = R.BLOCK, sinks: int = 0, window: int | None = None) -> Tensor:
    """What z [tokens, channels] reads back as, block by block; windows of `window` tokens keep their first `sinks` exactly."""
    window = window or len(z)
    rows = z.view(-1, window, z.shape[1])
    hat = torch.zeros_like(rows)
    # Groups of equal length together: the block with the sinks, whole blocks, a last one that is shorter.
    whole = [start for start in range(0, window, block) if start >= sinks and start + block <= window]
    others = [start for start in range(0, window, block) if start not in whole]
    runs = [(max(start, sinks), min(start + block, window)) for start in others]
    if whole:
        runs.append((whole[0], whole[-1] + block))
    for width in BITS[1:]:
        channels = (bits == width).nonzero()[:, 0]
        for first, end in runs:
            if len(channels) and end > first:
                size = min(block, end - first)
                groups = rows[:, first:end, channels].unflatten(1, (-1, size)).transpose(2, 3)
                back = symmetric_groups(groups.reshape(-1, size), width)[2].view(groups.shape)
                hat[:, first:end, channels] = back.transpose(2, 3).flatten(1, 2)
    return hat.view(z.shape)


# --- Bits ------------------------------------------------------------------------------------------------------


def allocate(importance: list[Tensor], elements: int, average: float, distortion: dict[int, float], block: int = R.BLOCK) -> list[Tensor]:
    """Bits of every channel of every layer.

    importance: one tensor [channels] a layer. elements: of K and V of a token in one layer (2 kvDim). average: bits an
    element, the scale of 16 bits a block included. The most valuable step, importance * (D(b) - D(b')) / cost, is taken
    first; of equals the lower layer's, then the lower channel's. Ends with the first step that does not fit.
    """
    steps = list(zip(BITS, BITS[1:]))
    value, cost = [], []
    for low, high in steps:
        cost.append((high - low) + (SCALE_BITS / block if low == 0 else 0))
        value.append((distortion[low] - distortion[high]) / cost[-1])
    if any(later >= earlier for earlier, later in zip(value, value[1:])):
        raise ValueError("each step must be worth less than the one before it")
    items = []
    flat = torch.cat([each.double().cpu() for each in importance]).numpy()
    # By value, then layer and channel (the index), then step.
    values = flat[:, None] * np.array(value)[None]
    order = np.lexsort((np.tile(np.arange(len(steps)), len(flat)), np.repeat(np.arange(len(flat)), len(steps)), -values.ravel()))
    budget = average * elements * len(importance)
    bits = np.zeros(len(flat), dtype=np.int64)
    spent = 0.0
    for item in order:
        channel, step = divmod(int(item), len(steps))
        if values[channel, step] <= 0 or spent + cost[step] > budget:
            break
        spent += cost[step]
        bits[channel] = steps[step][1]
    counts = [len(each) for each in importance]
    return list(torch.from_numpy(bits).split(counts))


# --- The calibration file ----------------------------------------------------------------------------------------


@dataclass
class LayerTransform:
    """One layer of one set, as f32 (values of the f16 file)."""

    encode: Tensor  # E [n, n]
    decode: Tensor  # D [n, n]
    importance: Tensor  # [n]
    offset: Tensor  # t [n]
    predict: list[Tensor]  # M_p [n, n], from the layer below first


@dataclass
class CalibrationSet:
    predict: int
    basis: str
    layers: list[LayerTransform]
    distortion: dict[int, float]


def read_set(path: Path, bits: float, predict: int, basis: str, device: str) -> CalibrationSet:
    """The set of a calibration file that serves `bits` an element: of those that fit, the one fitted at the nearest ratio."""
    with safe_open(path, framework="pt", device=device) as file:
        metadata = file.metadata()
        names = set(file.keys())
        fitting = [each for each in json.loads(metadata["sets"]) if each["predict"] == predict and each["basis"] == basis]
        if not fitting:
            raise SystemExit(f"{path} has no set with predict={predict}, basis={basis}: {metadata['sets']}")
        chosen = min(fitting, key=lambda each: 0 if each["bits"] is None else abs(np.log(each["bits"] / bits)))
        layers = []
        while (prefix := f"{chosen['name']}.layers.{len(layers)}.") + "decode" in names:
            get = lambda name: file.get_tensor(prefix + name).float()
            decode = get("decode")
            encode = get("encode") if prefix + "encode" in names else torch.linalg.inv(decode.double()).float()
            matrices = [get(f"predict.{p}") for p in range(1, predict + 1) if f"{prefix}predict.{p}" in names]
            layers.append(LayerTransform(encode, decode, get("importance"), get("offset"), matrices))
    distortion = {int(b): d for b, d in json.loads(metadata["distortion"]).items()}
    return CalibrationSet(predict, basis, layers, distortion)


def expected(transform: LayerTransform, below: list[Tensor]) -> Tensor | float:
    """What the coordinates of a layer are predicted to be: t + sum over p of y_{i-p} M_p, f64. below: y_{i-1} first, f32."""
    total = transform.offset.double()
    for y, matrix in zip(below, transform.predict):
        total = total + y.double() @ matrix.double()
    return total
