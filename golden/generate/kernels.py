"""XQuant as Triton kernels: an example of a good GPU implementation, held to reference.py bit for bit.

(a) quantize + pack (per token, per channel, 1/2/3/4/8 bits, minmax and mse), and the Hadamard rotation
(b) unpack + rematerialize K and V from per-token codes        (c) the same from per-channel latents
(d) XQuant-CL encode (difference, quantize, accumulate) and decode of one layer
(e) one decode step of attention over sealed blocks: RoPE, online softmax, values averaged as latents

Where bits are compared: `tl.div_rn` (IEEE division), launches with `enable_fp_fusion=False` (no multiply-add
contraction), subnormals kept. Rounding half to even is done by adding and subtracting 1.5 * 2^23, after which an f32
has no fraction bits; the hardware's own rounding mode does the rest (|t| < 2^22 holds after the clamp).

Group size is 128 and sealed blocks hold 128 tokens throughout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

import reference as R

GROUP = 128
EXACT = {"enable_fp_fusion": False}


# --- (a) quantize and pack -----------------------------------------------------------------------------------


@triton.jit
def round_f16(x):
    return x.to(tl.float16).to(tl.float32)


@triton.jit
def round_half_even(t):
    return (t + 12582912.0) - 12582912.0


@triton.jit
def encode(x, scale, minimum, LEVELS: tl.constexpr):
    """x [groups, n], scale and minimum [groups] -> codes as f32, x^."""
    divisor = tl.where(scale == 0.0, 1.0, scale)
    t = tl.div_rn(x - minimum[:, None], tl.broadcast_to(divisor[:, None], x.shape))
    codes = round_half_even(tl.minimum(tl.maximum(t, 0.0), LEVELS))
    codes = tl.where(scale[:, None] == 0.0, 0.0, codes)
    return codes, codes * scale[:, None] + minimum[:, None]


@triton.jit
def load_values(x_ptr, previous_ptr, offsets, mask, DELTA: tl.constexpr):
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
    if DELTA:
        x = x - tl.load(previous_ptr + offsets, mask=mask, other=0.0)
    return x


@triton.jit
def group_error(x_ptr, previous_ptr, base, count, live, stride, scale, minimum,
                LEVELS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, DELTA: tl.constexpr):
    """Squared error of each group in the fixed order: four lanes, index order, (l0 + l1) + (l2 + l3)."""
    lane = tl.arange(0, 4)
    lanes = tl.zeros((ROWS, 4), dtype=tl.float32)
    for start in range(0, SIZE, 4):
        index = start + lane
        mask = live[:, None] & (index[None, :] < count[:, None])
        x = load_values(x_ptr, previous_ptr, base[:, None] + index[None, :] * stride, mask, DELTA)
        _, x_hat = encode(x, scale, minimum, LEVELS)
        difference = x - x_hat
        lanes += tl.where(mask, difference * difference, 0.0)
    even, odd = tl.split(tl.permute(lanes.reshape(ROWS, 2, 2), (0, 1, 2)))  # (l0, l2), (l1, l3)
    first, second = tl.split(even + odd)  # l0 + l1, l2 + l3
    return first + second


@triton.jit
def quantize_kernel(
    x_ptr, previous_ptr, next_ptr, packed_ptr, scales_ptr, mins_ptr, factors_ptr, tokens, channels, groups,
    PER_TOKEN: tl.constexpr, BITS: tl.constexpr, MSE: tl.constexpr, DELTA: tl.constexpr,
    SIZE: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):
    """ROWS groups, CHUNK elements of each at a time.

    With 'minmax' a chunk is the whole group; neighbouring lanes read what is side by side in memory. With 'mse' the error
    of a group is a sum in a fixed order, so that a lane has a group of its own and goes through it in small chunks.
    Passes after the first find their data in the L1 cache. With DELTA, x - previous is quantized and
    previous + x^ is written to `next` (XQuant-CL, kernel (d)).
    """
    LEVELS: tl.constexpr = 2**BITS - 1
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = group < groups
    if PER_TOKEN:  # order: token, then channel group; the last group of a token may be short
        per_row = tl.cdiv(channels, SIZE)
        token, k = group // per_row, group % per_row
        base, stride = token * channels + k * SIZE, 1
        count = tl.minimum(SIZE, channels - k * SIZE)
        last = channels - (per_row - 1) * SIZE
        if BITS == 3:
            full_bytes, last_bytes = SIZE * 3 // 8, (last + 3) // 4 + (last + 7) // 8
        else:
            full_bytes, last_bytes = SIZE * BITS // 8, (last * BITS + 7) // 8
        out = token * ((per_row - 1) * full_bytes + last_bytes) + k * full_bytes
    else:  # order: token block, then channel; the last block may be short
        block, channel = group // channels, group % channels
        base, stride = block * SIZE * channels + channel, channels
        count = tl.minimum(SIZE, tokens - block * SIZE)
        if BITS == 3:
            full_bytes, group_bytes = SIZE * 3 // 8, (count + 3) // 4 + (count + 7) // 8
        else:
            full_bytes, group_bytes = SIZE * BITS // 8, (count * BITS + 7) // 8
        out = block * channels * full_bytes + channel * group_bytes

    # Pass 1: range.
    low = tl.full((ROWS,), float("inf"), dtype=tl.float32)
    high = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    chunk = tl.arange(0, CHUNK)
    for start in range(0, SIZE, CHUNK):
        index = start + chunk
        mask = live[:, None] & (index[None, :] < count[:, None])
        x = load_values(x_ptr, previous_ptr, base[:, None] + index[None, :] * stride, mask, DELTA)
        low = tl.minimum(low, tl.min(tl.where(mask, x, float("inf")), axis=1))
        high = tl.maximum(high, tl.max(tl.where(mask, x, float("-inf")), axis=1))
    low = tl.where(live, low, 0.0) + 0.0  # a zero is +0
    high = tl.where(live, high, 0.0) + 0.0
    levels = tl.full((ROWS,), LEVELS, dtype=tl.float32)
    minimum = round_f16(low)
    scale = round_f16(tl.div_rn(high - low, levels))

    # Pass 2: shrunken ranges. A later factor wins only if its error is strictly smaller.
    if MSE:
        shrinkable = scale != 0.0
        error = group_error(x_ptr, previous_ptr, base, count, live, stride, scale, minimum,
                            LEVELS, SIZE, ROWS, DELTA)
        middle = (low + high) * 0.5
        for candidate in range(1, 13):
            factor = tl.load(factors_ptr + candidate)
            lo = middle - factor * (middle - low)
            hi = middle + factor * (high - middle)
            try_minimum = round_f16(lo)
            try_scale = round_f16(tl.div_rn(hi - lo, levels))
            try_error = group_error(x_ptr, previous_ptr, base, count, live, stride, try_scale, try_minimum,
                                    LEVELS, SIZE, ROWS, DELTA)
            better = (try_error < error) & shrinkable
            error = tl.where(better, try_error, error)
            minimum = tl.where(better, try_minimum, minimum)
            scale = tl.where(better, try_scale, scale)

    # Pass 3: codes and bytes. A chunk is a multiple of eight codes, so that it starts on a byte.
    tl.store(scales_ptr + group, scale.to(tl.float16), mask=live)
    tl.store(mins_ptr + group, minimum.to(tl.float16), mask=live)
    for start in range(0, SIZE, CHUNK):
        index = start + chunk
        mask = live[:, None] & (index[None, :] < count[:, None])
        offsets = base[:, None] + index[None, :] * stride
        x = load_values(x_ptr, previous_ptr, offsets, mask, DELTA)
        codes_f, x_hat = encode(x, scale, minimum, LEVELS)
        codes = tl.where(mask, codes_f, 0.0).to(tl.int32)
        if DELTA:
            previous = tl.load(previous_ptr + offsets, mask=mask, other=0.0)
            tl.store(next_ptr + offsets, previous + x_hat, mask=mask)
        if BITS == 3:
            low_count = (count + 3) // 4
            pairs = (codes & 3).reshape(ROWS, CHUNK // 4, 4) << (2 * tl.arange(0, 4))[None, None, :]
            byte = start // 4 + tl.arange(0, CHUNK // 4)
            tl.store(packed_ptr + out[:, None] + byte[None, :], tl.sum(pairs, axis=2).to(tl.uint8),
                     mask=live[:, None] & (byte[None, :] < low_count[:, None]))
            highs = (codes >> 2).reshape(ROWS, CHUNK // 8, 8) << tl.arange(0, 8)[None, None, :]
            byte = start // 8 + tl.arange(0, CHUNK // 8)
            tl.store(packed_ptr + (out + low_count)[:, None] + byte[None, :], tl.sum(highs, axis=2).to(tl.uint8),
                     mask=live[:, None] & (byte[None, :] < ((count + 7) // 8)[:, None]))
        else:
            PER_BYTE: tl.constexpr = 8 // BITS
            shifted = codes.reshape(ROWS, CHUNK // PER_BYTE, PER_BYTE) << (BITS * tl.arange(0, PER_BYTE))[None, None, :]
            byte = start // PER_BYTE + tl.arange(0, CHUNK // PER_BYTE)
            tl.store(packed_ptr + out[:, None] + byte[None, :], tl.sum(shifted, axis=2).to(tl.uint8),
                     mask=live[:, None] & (byte[None, :] < ((count * BITS + 7) // 8)[:, None]))


_factors: dict[torch.device, Tensor] = {}


def quantize(x: Tensor, bits: int, grouping: str, range_: str, previous: Tensor | None = None,
             tile: tuple[int, int, int] | None = None):
    """x [tokens, channels] f32 -> packed u8, scales f16, mins f16 (and the new accumulator, given the previous one).

    `tile`: groups of a tile, elements of a chunk, warps.
    """
    tokens, channels = x.shape
    if x.device not in _factors:
        _factors[x.device] = torch.tensor(R.MSE_FACTORS, dtype=torch.float32, device=x.device)
    runs = R.spans(channels if grouping == "perToken" else tokens, GROUP)
    others = tokens if grouping == "perToken" else channels
    groups = len(runs) * others
    bytes_ = others * sum(R.packed_bytes(end - start, bits) for start, end in runs)
    packed = torch.empty(bytes_, dtype=torch.uint8, device=x.device)
    scales = torch.empty(groups, dtype=torch.float16, device=x.device)
    mins = torch.empty_like(scales)
    following = torch.empty_like(x) if previous is not None else x
    if tile is None:  # the fastest of some on an H100
        tile = (64, 8, 2) if range_ == "mse" else (4, GROUP, 1) if grouping == "perToken" else (32, GROUP, 4)
    ROWS, CHUNK, warps = tile
    quantize_kernel[(triton.cdiv(groups, ROWS),)](
        x, previous if previous is not None else x, following, packed, scales, mins, _factors[x.device],
        tokens, channels, groups, PER_TOKEN=grouping == "perToken", BITS=bits, MSE=range_ == "mse",
        DELTA=previous is not None, SIZE=GROUP, ROWS=ROWS, CHUNK=CHUNK, num_warps=warps, **EXACT,
    )
    return (packed, scales, mins) if previous is None else (packed, scales, mins, following)


@triton.jit
def hadamard_kernel(x_ptr, y_ptr, factor, rows, N: tl.constexpr, LOG: tl.constexpr, ROWS: tl.constexpr):
    """[rows, N]: butterflies with stride 1, 2, 4, ... in registers, then one multiplication."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    offsets = row[:, None] * N + tl.arange(0, N)[None, :]
    y = tl.load(x_ptr + offsets, mask=(row < rows)[:, None], other=0.0)
    for stage in tl.static_range(LOG):
        pairs = y.reshape(ROWS, N // 2 ** (stage + 1), 2, 2**stage)
        a, b = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
        y = tl.permute(tl.join(a + b, a - b), (0, 1, 3, 2)).reshape(ROWS, N)
    tl.store(y_ptr + offsets, y * factor, mask=(row < rows)[:, None])


def hadamard(x: Tensor) -> Tensor:
    n = R.rotation_block(x.shape[-1])
    rows = x.numel() // n
    y = torch.empty_like(x)
    ROWS = max(1, 1024 // n)
    factor = float(torch.tensor(n**-0.5, dtype=torch.float32))
    hadamard_kernel[(triton.cdiv(rows, ROWS),)](x, y, factor, rows, N=n, LOG=n.bit_length() - 1, ROWS=ROWS, **EXACT)
    return y


# --- Reading codes -------------------------------------------------------------------------------------------


@triton.jit
def load_hat(packed_ptr, scales_ptr, mins_ptr, first_token, token, first_channel, channel, token_live, channels,
             PER_TOKEN: tl.constexpr, BITS: tl.constexpr, SIZE: tl.constexpr, ONE_GROUP: tl.constexpr):
    """x^ of a tile [BT tokens, BC channels] that starts at (first_token, first_channel), multiples of BT and BC.

    Tokens come in whole blocks; the last group of channels may be short. BT divides SIZE. ONE_GROUP: so does BC, and a
    row of the tile (per channel always: a column) has one scale and one minimum.
    """
    t, c = token[:, None], channel[None, :]
    mask = token_live[:, None] & (c < channels)
    if PER_TOKEN:
        per_row = tl.cdiv(channels, SIZE)
        k, i = c // SIZE, c % SIZE
        count = tl.minimum(SIZE, channels - k * SIZE)  # a multiple of 32, so no group ends inside a byte
        base = t * (channels * BITS // 8) + k * (SIZE * BITS // 8)
        if ONE_GROUP:
            group, group_mask = t * per_row + first_channel // SIZE, token_live[:, None]
        else:
            group, group_mask = t * per_row + k, mask
    else:
        i = t % SIZE
        count = SIZE
        group, group_mask = first_token // SIZE * channels + c, c < channels
        base = group * (SIZE * BITS // 8)
    if BITS == 3:
        low = tl.load(packed_ptr + base + i // 4, mask=mask, other=0).to(tl.int32)
        high = tl.load(packed_ptr + base + count // 4 + i // 8, mask=mask, other=0).to(tl.int32)
        code = ((low >> (2 * (i % 4))) & 3) | (((high >> (i % 8)) & 1) << 2)
    else:
        byte = tl.load(packed_ptr + base + i * BITS // 8, mask=mask, other=0).to(tl.int32)
        code = (byte >> ((i * BITS) % 8)) & (2**BITS - 1)
    scale = tl.load(scales_ptr + group, mask=group_mask, other=0.0).to(tl.float32)
    minimum = tl.load(mins_ptr + group, mask=group_mask, other=0.0).to(tl.float32)
    return code.to(tl.float32) * scale + minimum


# --- (b), (c) rematerialize ----------------------------------------------------------------------------------


@triton.jit
def rematerialize_kernel(packed_ptr, scales_ptr, mins_ptr, w_ptr, y_ptr, tokens, channels: tl.constexpr, outs: tl.constexpr,
                         PER_TOKEN: tl.constexpr, BITS: tl.constexpr, SIZE: tl.constexpr,
                         BT: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr, PRECISION: tl.constexpr):
    """y [tokens, outs] = x^ W^T, W [outs, channels]. Codes become values in registers on their way to the product."""
    first_token = tl.program_id(0).to(tl.int64) * BT
    token = first_token + tl.arange(0, BT)
    out = tl.program_id(1) * BO + tl.arange(0, BO)
    sum_ = tl.zeros((BT, BO), dtype=tl.float32)
    for start in range(0, channels, BC):
        channel = start + tl.arange(0, BC)
        x = load_hat(packed_ptr, scales_ptr, mins_ptr, first_token, token, start, channel, token < tokens, channels,
                     PER_TOKEN, BITS, SIZE, True)
        w = tl.load(w_ptr + out[None, :] * channels + channel[:, None],
                    mask=(out[None, :] < outs) & (channel[:, None] < channels), other=0.0)
        sum_ = tl.dot(x, w, sum_, input_precision=PRECISION)
    tl.store(y_ptr + token[:, None] * outs + out[None, :], sum_,
             mask=(token[:, None] < tokens) & (out[None, :] < outs))


def rematerialize(packed, scales, mins, weight: Tensor, tokens: int, bits: int, grouping: str, precision="ieee",
                  tile: tuple[int, int, int, int] | None = None):
    """weight [outs, channels] f32 -> f32 [tokens, outs]. For K and V from the same codes stack w_k and w_v.

    `tile`: tokens, outs and channels of a tile, warps. Codes are read anew for every tile of outs.
    """
    outs, channels = weight.shape
    y = torch.empty(tokens, outs, dtype=torch.float32, device=weight.device)
    BT, BO, BC, warps = tile or ((64, 64, 32, 4) if outs < 512 else (64, 256, 32, 8))
    rematerialize_kernel[(triton.cdiv(tokens, BT), triton.cdiv(outs, BO))](
        packed, scales, mins, weight, y, tokens, channels, outs, PER_TOKEN=grouping == "perToken", BITS=bits,
        SIZE=GROUP, BT=BT, BC=BC, BO=BO, PRECISION=precision, num_warps=warps,
    )
    return y


# --- (d) decode of one XQuant-CL layer (its encode is quantize() with `previous`) ------------------------------


@triton.jit
def accumulate_kernel(packed_ptr, scales_ptr, mins_ptr, previous_ptr, next_ptr, tokens, channels,
                      PER_TOKEN: tl.constexpr, BITS: tl.constexpr, SIZE: tl.constexpr,
                      BT: tl.constexpr, BC: tl.constexpr):
    first_token, first_channel = tl.program_id(0).to(tl.int64) * BT, tl.program_id(1) * BC
    token, channel = first_token + tl.arange(0, BT), first_channel + tl.arange(0, BC)
    hat = load_hat(packed_ptr, scales_ptr, mins_ptr, first_token, token, first_channel, channel, token < tokens, channels,
                   PER_TOKEN, BITS, SIZE, True)
    offsets = token[:, None] * channels + channel[None, :]
    mask = (token < tokens)[:, None] & (channel < channels)[None, :]
    previous = tl.load(previous_ptr + offsets, mask=mask, other=0.0)
    tl.store(next_ptr + offsets, previous + hat, mask=mask)


def accumulate(packed, scales, mins, previous: Tensor, bits: int, grouping: str) -> Tensor:
    """previous accumulator [tokens, channels] f32 -> previous + x^."""
    tokens, channels = previous.shape
    following = torch.empty_like(previous)
    BT, BC = 32, 128
    accumulate_kernel[(triton.cdiv(tokens, BT), triton.cdiv(channels, BC))](
        packed, scales, mins, previous, following, tokens, channels, PER_TOKEN=grouping == "perToken", BITS=bits,
        SIZE=GROUP, BT=BT, BC=BC, **EXACT,
    )
    return following


# --- (e) one decode step of attention ------------------------------------------------------------------------


@triton.jit
def attend_kernel(
    q_ptr, cos_ptr, sin_ptr, kp_ptr, ks_ptr, km_ptr, vp_ptr, vs_ptr, vm_ptr, w_ptr, max_ptr, sum_ptr, latent_ptr,
    tokens, parts, softmax_scale,
    TOKENS_PER_PART: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    HALF: tl.constexpr, INTERLEAVED: tl.constexpr, KEY_PER_TOKEN: tl.constexpr, VALUE_PER_TOKEN: tl.constexpr,
    BITS: tl.constexpr, SIZE: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):
    """One KV head and one part of the tokens: partial softmax and partial average of value latents.

    K of a tile lives in registers only: rebuilt from codes once, rotated, scored against all query heads that share it.
    V is never rebuilt: P (X^ Wv) = (P X^) Wv, so the average of X^ is kept and projected once at the end.
    RoPE pairs channel a with channel b; Wk's rows for all a and for all b are loaded apart, so that turning a pair
    needs no shuffle.
    """
    kv_head, part = tl.program_id(0), tl.program_id(1)
    SHARED: tl.constexpr = HEADS // KV_HEADS
    pair = tl.arange(0, HALF)
    if INTERLEAVED:
        a_row, b_row = 2 * pair, 2 * pair + 1
    else:
        a_row, b_row = pair, pair + HALF
    value_channel = tl.arange(0, VALUE_WIDTH)
    head = kv_head * SHARED + tl.arange(0, SHARED)
    q_a = tl.load(q_ptr + head[:, None] * 2 * HALF + a_row[None, :])  # [SHARED, HALF]
    q_b = tl.load(q_ptr + head[:, None] * 2 * HALF + b_row[None, :])
    running_max = tl.full((SHARED,), float("-inf"), dtype=tl.float32)
    running_sum = tl.zeros((SHARED,), dtype=tl.float32)
    average = tl.zeros((SHARED, VALUE_WIDTH), dtype=tl.float32)

    for start in range(0, TOKENS_PER_PART, BT):
        first_token = part * TOKENS_PER_PART + start
        token = first_token + tl.arange(0, BT)
        live = token < tokens
        k_a = tl.zeros((BT, HALF), dtype=tl.float32)
        k_b = tl.zeros((BT, HALF), dtype=tl.float32)
        for c in range(0, KEY_WIDTH, BC):
            channel = c + tl.arange(0, BC)
            x = load_hat(kp_ptr, ks_ptr, km_ptr, first_token, token, c, channel, live, KEY_WIDTH,
                         KEY_PER_TOKEN, BITS, SIZE, True)
            row = kv_head * 2 * HALF
            w_a = tl.load(w_ptr + (row + a_row)[None, :] * KEY_WIDTH + channel[:, None])
            w_b = tl.load(w_ptr + (row + b_row)[None, :] * KEY_WIDTH + channel[:, None])
            k_a = tl.dot(x, w_a, k_a, input_precision="ieee")
            k_b = tl.dot(x, w_b, k_b, input_precision="ieee")
        angle = token[:, None] * HALF + pair[None, :]
        cos = tl.load(cos_ptr + angle, mask=live[:, None], other=0.0)
        sin = tl.load(sin_ptr + angle, mask=live[:, None], other=0.0)
        turned_a, turned_b = k_a * cos - k_b * sin, k_a * sin + k_b * cos
        products = turned_a[:, None, :] * q_a[None, :, :] + turned_b[:, None, :] * q_b[None, :, :]
        scores = tl.where(live[:, None], tl.sum(products, axis=2) * softmax_scale, float("-inf"))  # [BT, SHARED]
        new_max = tl.maximum(running_max, tl.max(scores, axis=0))
        shrink = tl.exp(running_max - new_max)
        p = tl.exp(scores - new_max[None, :])
        v = load_hat(vp_ptr, vs_ptr, vm_ptr, first_token, token, 0, value_channel, live, VALUE_WIDTH,
                     VALUE_PER_TOKEN, BITS, SIZE, VALUE_WIDTH <= SIZE)
        average = tl.dot(tl.trans(p), v, average * shrink[:, None], input_precision="ieee")
        running_sum = running_sum * shrink + tl.sum(p, axis=0)
        running_max = new_max
    at = head * parts + part
    tl.store(max_ptr + at, running_max)
    tl.store(sum_ptr + at, running_sum)
    tl.store(latent_ptr + at[:, None] * VALUE_WIDTH + value_channel[None, :], average)


def attend(query, key, value, w_k, w_v, tokens, bits, key_grouping, value_grouping, kv_heads, position, theta, layout,
           tokens_per_part: int = 128, tile: tuple[int, int, int] = (64, 32, 4)) -> Tensor:
    """query [heads, headDim] before RoPE; key and value: (packed, scales, mins). -> f32 [heads, headDim].

    `tile`: tokens and key channels of a tile, warps.
    """
    BT, BC, warps = tile
    heads, head_dim = query.shape
    device = query.device
    half = head_dim // 2
    angles = R.rope_angles(torch.arange(tokens, device=device), head_dim, theta)
    cos, sin = angles.cos().float(), angles.sin().float()  # tables made once per sequence
    q = R.rope(query[None], R.rope_angles(torch.tensor([position], device=device), head_dim, theta), layout)[0]
    parts = triton.cdiv(tokens, tokens_per_part)
    part_max = torch.empty(heads, parts, dtype=torch.float32, device=device)
    part_sum = torch.empty_like(part_max)
    latent = torch.empty(heads, parts, w_v.shape[1], dtype=torch.float32, device=device)
    attend_kernel[(kv_heads, parts)](
        q, cos, sin, *key, *value, w_k, part_max, part_sum, latent, tokens, parts, head_dim**-0.5,
        TOKENS_PER_PART=tokens_per_part, KEY_WIDTH=w_k.shape[1], VALUE_WIDTH=w_v.shape[1], HEADS=heads, KV_HEADS=kv_heads, HALF=half,
        INTERLEAVED=layout == "interleaved", KEY_PER_TOKEN=key_grouping == "perToken",
        VALUE_PER_TOKEN=value_grouping == "perToken", BITS=bits, SIZE=GROUP, BT=BT, BC=BC, num_warps=warps,
    )
    # Combine the parts (a few numbers per head), then project the averaged latents: once per token, not per cached token.
    weight = torch.exp(part_max - part_max.amax(1, keepdim=True))
    averaged = (weight[:, :, None] * latent).sum(1) / (weight * part_sum).sum(1, keepdim=True)
    w_v = w_v.view(kv_heads, head_dim, -1).repeat_interleave(heads // kv_heads, dim=0)
    return torch.einsum("hdc,hc->hd", w_v, averaged)
