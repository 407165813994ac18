"""XQuant (arXiv 2508.10395) in PyTorch eager: the definitions that the golden files are made with.

Written from the specification, for reading. Two kinds of arithmetic, never mixed:

* What decides stored bits (quantizer, packing, Hadamard rotation, differences and sums of the cross-layer form)
  is f32, one rounding per operation, IEEE division, no fused multiply-add. Each line below is one PyTorch
  operation and so one rounding. The results are compared bit for bit.
* What is a float product (K = X Wk, attention, norms) is summed in f64 and rounded to f32 once, so that it is
  closer to the truth than anything compared with it. The results are compared within a tolerance.

Shapes in brackets use the names of the paper map: tokens, hiddenSize, kvDim, latentRank. Matrices of weights are
[outChannels, inChannels] as files store them, so K = x @ w_k.T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 128  # tokens of a sealed block, and the paper's group size

# --- The quantizer -------------------------------------------------------------------------------------------

# Candidate shrink factors of range 'mse', largest first; a later one wins only if it is strictly better.
MSE_FACTORS = tuple(round(1.0 - 0.05 * i, 2) for i in range(13))  # 1.00, .95, ... .40


def f16(x: Tensor) -> Tensor:
    """Round f32 to binary16 (ties to even, subnormals kept) and back: what storage does to a scale or a minimum."""
    return x.to(torch.float16).to(torch.float32)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """IEEE a / b. Always tensor by tensor: by a Python number, CUDA PyTorch multiplies by the reciprocal."""
    return torch.div(a, b.to(a.device).expand_as(a).contiguous())


def codes_and_values(x: Tensor, scale: Tensor, minimum: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """x [groups, n], scale and minimum [groups, 1], both already rounded to f16 -> codes (as f32) and x^ [groups, n]."""
    levels = 2**bits - 1
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = divide(x - minimum, divisor).round().clamp(0, levels)  # torch.round: ties to even
    codes = torch.where(scale == 0, torch.zeros_like(codes), codes)
    return codes, codes * scale + minimum


def squared_error(x: Tensor, x_hat: Tensor, count: int) -> Tensor:
    """Sum over a group in four lanes (index mod 4), each in index order, then (l0 + l1) + (l2 + l3). -> [groups, 1].

    The order is fixed because an f32 sum depends on it, and this sum decides which range is stored.
    """
    difference = x - x_hat
    squares = difference * difference
    padding = -count % 4
    if padding:  # adding +0 to a lane changes nothing: squares are never -0
        squares = torch.nn.functional.pad(squares, (0, padding))
    squares = squares.view(squares.shape[0], -1, 4)
    lanes = torch.zeros_like(squares[:, 0])
    for step in range(squares.shape[1]):
        lanes = lanes + squares[:, step]
    return ((lanes[:, 0] + lanes[:, 1]) + (lanes[:, 2] + lanes[:, 3]))[:, None]


def quantize_groups(x: Tensor, bits: int, range_: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [groups, n] f32 -> codes u8 [groups, n], scales f16 [groups], mins f16 [groups], x^ f32 [groups, n]."""
    levels = torch.tensor(float(2**bits - 1), dtype=torch.float32)
    # The smallest and largest value; a zero is +0 whatever its sign was (-0 + 0 = +0).
    low = x.amin(1, keepdim=True) + 0.0
    high = x.amax(1, keepdim=True) + 0.0
    minimum = f16(low)
    scale = f16(divide(high - low, levels))
    codes, x_hat = codes_and_values(x, scale, minimum, bits)

    if range_ == "mse":
        constant = scale == 0  # such a group stops at factor 1
        error = squared_error(x, x_hat, x.shape[1])
        middle = (low + high) * 0.5
        for factor in MSE_FACTORS[1:]:
            r = torch.tensor(factor, dtype=torch.float32, device=x.device)
            lo = middle - r * (middle - low)
            hi = middle + r * (high - middle)
            try_minimum = f16(lo)
            try_scale = f16(divide(hi - lo, levels))
            try_codes, try_hat = codes_and_values(x, try_scale, try_minimum, bits)
            try_error = squared_error(x, try_hat, x.shape[1])
            better = (try_error < error) & ~constant
            error = torch.where(better, try_error, error)
            minimum = torch.where(better, try_minimum, minimum)
            scale = torch.where(better, try_scale, scale)
            codes = torch.where(better, try_codes, codes)
            x_hat = torch.where(better, try_hat, x_hat)
    elif range_ != "minmax":
        raise ValueError(f"range {range_!r}")

    if not (torch.isfinite(scale).all() and torch.isfinite(minimum).all()):
        raise ValueError("a range too large for f16")
    return codes.to(torch.uint8), scale[:, 0].to(torch.float16), minimum[:, 0].to(torch.float16), x_hat


# --- Packing -------------------------------------------------------------------------------------------------


def bit_stream(codes: Tensor, bits: int) -> Tensor:
    """codes [groups, n] of 1, 2, 4 or 8 bits -> bytes [groups, ceil(n * bits / 8)], first code in the low bits."""
    per_byte = 8 // bits
    padding = -codes.shape[1] % per_byte
    codes = torch.nn.functional.pad(codes.to(torch.int32), (0, padding)).view(codes.shape[0], -1, per_byte)
    shifts = torch.arange(per_byte, device=codes.device, dtype=torch.int32) * bits
    return (codes << shifts).sum(-1).to(torch.uint8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes u8 [groups, n] -> u8 [groups, bytes]. Three bits: all low pairs first, then all high bits."""
    if bits == 3:
        return torch.cat((bit_stream(codes & 3, 2), bit_stream(codes >> 2, 1)), dim=1)
    return bit_stream(codes, bits)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of one group of `count` codes."""
    if bits == 3:
        return -(-count * 2 // 8) + -(-count // 8)
    return -(-count * bits // 8)


# --- A matrix in groups --------------------------------------------------------------------------------------


@dataclass
class Quantized:
    """A matrix [tokens, channels] as stored, and what it reads back as."""

    packed: Tensor  # u8 [bytes], group after group
    scales: Tensor  # f16 [groups]
    mins: Tensor  # f16 [groups]
    codes: Tensor  # u8 [tokens, channels]
    x_hat: Tensor  # f32 [tokens, channels]

    def stored(self, prefix: str = "") -> dict[str, Tensor]:
        return {f"{prefix}packed": self.packed, f"{prefix}scales": self.scales, f"{prefix}mins": self.mins}


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """[0, length) cut into runs of `size`; the last may be short and is a group of its own."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def quantize(x: Tensor, bits: int, group_size: int, grouping: str, range_: str, packed: bool = True) -> Quantized:
    """x [tokens, channels] f32.

    perToken: a group is a run of channels of one token; order token, then channel group.
    perChannel: a group is a run of tokens of one channel; order token block, then channel.
    """
    tokens, channels = x.shape
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    x_hat = torch.empty_like(x)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    if grouping == "perToken":
        full = channels // group_size
        for start, end, count in ((0, full * group_size, full), (full * group_size, channels, 1)):
            if start == end:
                continue
            groups = x[:, start:end].reshape(tokens * count, -1)
            group_codes, scales, mins, group_hat = quantize_groups(groups, bits, range_)
            codes[:, start:end] = group_codes.view(tokens, -1)
            x_hat[:, start:end] = group_hat.view(tokens, -1)
            bytes_ = pack(group_codes, bits).view(tokens, -1) if packed else codes[:, :0]
            parts.append((bytes_, scales.view(tokens, -1), mins.view(tokens, -1)))
        columns = [torch.cat(column, dim=1).flatten() for column in zip(*parts)]
    elif grouping == "perChannel":
        full = tokens // group_size
        for start, end, count in ((0, full * group_size, full), (full * group_size, tokens, 1)):
            if start == end:
                continue
            groups = x[start:end].view(count, -1, channels).transpose(1, 2).reshape(count * channels, -1)
            group_codes, scales, mins, group_hat = quantize_groups(groups, bits, range_)
            back = lambda g: g.view(count, channels, -1).transpose(1, 2).reshape(end - start, channels)
            codes[start:end] = back(group_codes)
            x_hat[start:end] = back(group_hat)
            parts.append((pack(group_codes, bits).flatten() if packed else codes[:0].flatten(), scales, mins))
        columns = [torch.cat(column) for column in zip(*parts)]
    else:
        raise ValueError(f"grouping {grouping!r}")
    return Quantized(columns[0], columns[1], columns[2], codes, x_hat)


# --- Rotation ------------------------------------------------------------------------------------------------


def rotation_block(channels: int) -> int:
    """The largest power of two that divides the width: 256 -> 256, 192 -> 64, 576 -> 64."""
    return channels & -channels


def hadamard(x: Tensor) -> Tensor:
    """Walsh-Hadamard transform of each block of the last axis, natural order, own inverse. Keeps the dtype.

    Stages with stride 1, 2, 4, ...: (a, b) -> (a + b, a - b), then one multiplication by 1/sqrt(n).
    """
    n = rotation_block(x.shape[-1])
    y = x.reshape(-1, n)
    stride = 1
    while stride < n:
        pairs = y.view(-1, n // (2 * stride), 2, stride)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        y = torch.stack((a + b, a - b), dim=2).view(-1, n)
        stride *= 2
    factor = torch.tensor(1.0 / math.sqrt(n), dtype=x.dtype, device=x.device)
    return (y * factor).view(x.shape)


def rotate_inputs(weight: Tensor) -> Tensor:
    """weight [outChannels, inChannels] f64 with a rotation of its input folded in: x W^T = (x H)(W H)^T."""
    return hadamard(weight)


# --- Float operations: f64 sums, one rounding to f32 ---------------------------------------------------------


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [tokens, inChannels], weight [outChannels, inChannels] -> f32 [tokens, outChannels]."""
    return (x.double() @ weight.double().T).float()


def rope_angles(positions: Tensor, head_dim: int, theta: float, scaling: dict | None = None) -> Tensor:
    """positions [tokens] -> angles f64 [tokens, headDim / 2]: position * theta^(-2i / headDim)."""
    i = torch.arange(head_dim // 2, dtype=torch.float64, device=positions.device)
    frequency = theta ** (-2.0 * i / head_dim)
    if scaling is not None:  # Llama 3: slow rotations are stretched, fast ones kept, a ramp between
        factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = (1 - smooth) * frequency / factor + smooth * frequency
    return positions.double()[:, None] * frequency


def rope(x: Tensor, angles: Tensor, layout: str) -> Tensor:
    """x [tokens, heads, headDim] -> f32 of the same shape.

    half: channel i turns together with i + headDim/2. interleaved: 2i together with 2i + 1.
    """
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    x = x.double()
    half = x.shape[-1] // 2
    a, b = (x[..., :half], x[..., half:]) if layout == "half" else (x[..., 0::2], x[..., 1::2])
    turned_a, turned_b = a * cos - b * sin, a * sin + b * cos
    if layout == "half":
        return torch.cat((turned_a, turned_b), dim=-1).float()
    return torch.stack((turned_a, turned_b), dim=-1).flatten(-2).float()


def svd(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w [hiddenSize, outDim] (paper orientation, K = X W) -> U [hiddenSize, rank], S [rank], V^T [rank, outDim], f64.

    Signs: the entry of largest magnitude of each column of U is positive. Done on the CPU: it is small, and the
    same everywhere.
    """
    u, s, vt = torch.linalg.svd(w.double().cpu(), full_matrices=False)
    largest = u.abs().argmax(0)
    signs = torch.sign(u[largest, torch.arange(u.shape[1])])
    return (u * signs).to(w.device), s.to(w.device), (vt * signs[:, None]).to(w.device)


# --- XQuant-CL over layers (paper section 3.2 and 3.3.2) -----------------------------------------------------


def cl_encode(
    x: Tensor, bits: int, base_bits: int, group_size: int, grouping: str, range_: str, rotation: str,
    down: Tensor | None = None,
) -> tuple[list[Quantized], list[Tensor], list[Tensor]]:
    """x [layers, tokens, hiddenSize]; layer 0 starts the accumulator. down [layers, latentRank, hiddenSize] or None.

    The difference is taken against the reconstruction A of the layer below (a closed loop), so errors do not add up
    over the layers. Returns what is stored per layer, the accumulator after each layer, and the quantized deltas.
    """
    rows = hadamard(x) if rotation == "hadamard" else x
    base = quantize(rows[0], base_bits, group_size, grouping, range_)
    stored, accumulators, deltas = [base], [base.x_hat], [rows[0]]
    for layer in range(1, x.shape[0]):
        previous = accumulators[-1]
        delta = rows[layer] - previous
        if down is not None:
            delta = product(delta, down[layer])
        quantized = quantize(delta, bits, group_size, grouping, range_)
        update = quantized.x_hat if down is None else product(quantized.x_hat, down[layer].T)
        stored.append(quantized)
        accumulators.append(previous + update)
        deltas.append(delta)
    return stored, accumulators, deltas


# --- Attention of one decode step ----------------------------------------------------------------------------


def attend(query: Tensor, keys: Tensor, values: Tensor, position: int, theta: float, layout: str) -> Tensor:
    """query [heads, headDim] before RoPE; keys, values [tokens, kvHeads, headDim], keys before RoPE, at 0, 1, 2, ...

    -> f32 [heads, headDim]. Query head h reads KV head h // (heads / kvHeads).
    """
    heads, head_dim = query.shape
    tokens, kv_heads, _ = keys.shape
    at = lambda positions: rope_angles(positions.to(query.device), head_dim, theta)
    q = rope(query[None], at(torch.tensor([position])), layout)[0].double()
    k = rope(keys, at(torch.arange(tokens)), layout).double().repeat_interleave(heads // kv_heads, dim=1)
    v = values.double().repeat_interleave(heads // kv_heads, dim=1)
    scores = torch.einsum("hd,thd->ht", q, k) / math.sqrt(head_dim)
    return torch.einsum("ht,thd->hd", scores.softmax(-1), v).float()
