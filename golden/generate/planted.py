"""Groups of values on which the mistakes of quantizers show.

Random values hide most of them: a tie, a value beside a tie, or two ranges of equal error hardly ever come up. Each function
here makes groups for one kind of mistake, in f32 on the CPU with numpy, so that they are the same on every machine. Whether a
mistake is caught by them is not believed: docs/mistakes.md has the table, written by running every mistake on every case.
"""

from __future__ import annotations

from typing import Callable, Iterator

import numpy as np

N = 128  # values of a group
MSE_FACTORS = np.array([round(1.0 - 0.05 * i, 2) for i in range(13)], dtype=np.float32)
STEP = {1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352, 8: 0.0308}
STEP_FACTORS = np.array([0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.35, 1.5], dtype=np.float32)

Sum = Callable[[np.ndarray], np.ndarray]
Decide = Callable[[np.ndarray], np.ndarray]


def f16(x) -> np.ndarray:
    return np.asarray(x, dtype=np.float32).astype(np.float16).astype(np.float32)


def fma(a, b, c) -> np.ndarray:
    """a * b + c rounded once: the product is exact in f64, and the sum has 29 bits to spare."""
    return (np.asarray(a, np.float64) * b + c).astype(np.float32)


# --- Sums of squares, [groups, n] -> [groups] ------------------------------------------------------------------


def lanes(count: int, contracted: bool = False) -> Sum:
    """In `count` lanes, the lanes then added as a tree; contracted: d * d + lane with one rounding."""

    def total(d: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(d), count), dtype=np.float32)
        for start in range(0, d.shape[1], count):
            part = d[:, start : start + count]
            sums[:, : part.shape[1]] = fma(part, part, sums[:, : part.shape[1]]) if contracted else sums[:, : part.shape[1]] + part * part
        while sums.shape[1] > 1:
            sums = sums[:, 0::2] + sums[:, 1::2]
        return sums[:, 0]

    return total


SPECIFIED = lanes(4)

# Orders that kernels use: one after the other, eight lanes, a warp, f64, and the specified one with multiply-adds.
OTHER_SUMS: dict[str, Sum] = {
    "sequential": lanes(1), "eight": lanes(8), "warp": lanes(32),
    "double": lambda d: (d.astype(np.float64) ** 2).sum(1).astype(np.float32), "contracted": lanes(4, contracted=True),
}

# --- What is stored, [groups, n] -> [groups, parameters] ---------------------------------------------------------


def mse_parameters(bits: int, total: Sum = SPECIFIED, contracted_ends: bool = False) -> Decide:
    """Scale and minimum of range 'mse'."""
    last = np.float32(2**bits - 1)

    def decide(x: np.ndarray) -> np.ndarray:
        low, high = x.min(1, keepdims=True) + np.float32(0), x.max(1, keepdims=True) + np.float32(0)
        middle = (low + high) * np.float32(0.5)
        best = None
        for factor in MSE_FACTORS:
            if factor == 1:
                lo, hi = low, high
            elif contracted_ends:
                lo, hi = fma(-factor, middle - low, middle), fma(factor, high - middle, middle)
            else:
                lo, hi = middle - factor * (middle - low), middle + factor * (high - middle)
            scale, minimum = f16((hi - lo) / last), f16(lo)
            safe = np.where(scale == 0, np.float32(1), scale)
            codes = np.where(scale == 0, np.float32(0), np.clip(np.rint((x - minimum) / safe), 0, last))
            error = total(x - (codes * scale + minimum))[:, None]
            found = np.concatenate((error, scale, minimum), axis=1)
            best = found if best is None else np.where((error < best[:, :1]) & (best[:, 1:2] != 0), found, best)
        return best[:, 1:]

    return decide


def symmetric_parameters(bits: int, rms: Sum = SPECIFIED, errors: Sum = SPECIFIED) -> Decide:
    """Scale of the symmetric quantizer."""
    half = np.float32(2 ** (bits - 1))
    step = np.float32(STEP[bits])

    def decide(x: np.ndarray) -> np.ndarray:
        size = np.sqrt(rms(x) / np.float32(x.shape[1]))[:, None]
        best = None
        for factor in STEP_FACTORS:
            scale = f16((factor * step) * size)
            safe = np.where(scale == 0, np.float32(1), scale)
            codes = np.where(scale == 0, half, np.clip(np.floor(x / safe) + half, 0, 2 * half - 1))
            error = errors(x - (codes + (np.float32(0.5) - half)) * scale)[:, None]
            found = np.concatenate((error, scale), axis=1)
            best = found if best is None else np.where(error < best[:, :1], found, best)
        return best[:, 1:]

    return decide


# --- Groups where two ways to compute part -----------------------------------------------------------------------


def neighbours(value: np.float32, reach: int, stride: int) -> np.ndarray:
    """Every `stride`th f32 number around a value that is not zero."""
    return (np.float32(value).view(np.int32) + np.arange(-reach, reach + 1, stride, dtype=np.int32)).view(np.float32)


def parting(rng: np.random.Generator, right: Decide, wrong: Decide, moved: str = "any", spread: float = 1.0) -> np.ndarray:
    """A group for which `right` and `wrong` store other parameters.

    One value is moved until `right` is about to change its mind, which happens between two neighbouring f32 numbers; where
    exactly depends on every rounding before it, so that another order of the sum changes its mind somewhere else nearby.
    `spread`: of values about -1 and 1 when below 1, so that one bit has a range of its own to find.
    """
    for _ in range(400):
        x = (spread * rng.standard_normal(N) + (rng.choice([-1, 1], N) if spread < 1 else 0)).astype(np.float32)
        j = int(x.argmax()) if moved == "largest" else int(rng.integers(N))
        points = (x[j] * np.linspace(1, 1.2, 65) if moved == "largest" else np.linspace(0.05, 1.5, 65)).astype(np.float32)

        def at(values: np.ndarray, decide: Decide) -> np.ndarray:
            rows_ = np.repeat(x[None], len(values), 0)
            rows_[:, j] = values
            return decide(rows_)

        changes = np.flatnonzero((at(points, right)[1:] != at(points, right)[:-1]).any(1))
        for i in changes[:3]:
            low, high = points[i], points[i + 1]
            while high.view(np.int32) - low.view(np.int32) > 1:
                middle = np.int32((int(low.view(np.int32)) + int(high.view(np.int32))) // 2).view(np.float32)
                ends = at(np.array([low, middle], dtype=np.float32), right)
                low, high = (low, middle) if (ends[0] != ends[1]).any() else (middle, high)
            near = neighbours(low, 1200, 6)
            differ = np.flatnonzero((at(near, right) != at(near, wrong)).any(1))
            if len(differ):
                x[j] = near[differ[len(differ) // 2]]
                return x
    raise RuntimeError("no group parts them")


# --- The asymmetric quantizer ------------------------------------------------------------------------------------


def on_levels(rng: np.random.Generator, bits: int, scale: float, minimum: float) -> np.ndarray:
    """Values on the levels, both ends among them: range 'mse' keeps the widest range, since it has no error."""
    codes = rng.integers(0, 2**bits, N)
    codes[:2] = 0, 2**bits - 1
    return (codes * np.float32(scale) + np.float32(minimum)).astype(np.float32)


def spots(rng: np.random.Generator, count: int = 16) -> np.ndarray:
    return 2 + rng.permutation(N - 2)[:count]


def ties(rng: np.random.Generator, bits: int, scale: float = 0.25, minimum: float = -0.5) -> np.ndarray:
    x = on_levels(rng, bits, scale, minimum)
    for i, spot in enumerate(spots(rng)):
        x[spot] = minimum + scale * (i % (2**bits - 1) + 0.5)
    return x


def below_ties(rng: np.random.Generator, bits: int) -> np.ndarray:
    """Just below one half, where adding one half in f32 gives one."""
    x = on_levels(rng, bits, 0.25, 0)
    x[spots(rng)] = np.nextafter(np.float32(0.125), np.float32(0))
    return x


def beside_ties(rng: np.random.Generator, bits: int, fused: bool) -> np.ndarray:
    """Values whose code is another one when (x - m) / s is computed with 1 / s; fused: as x (1 / s) - m (1 / s)."""
    last = 2**bits - 1
    for _ in range(10000):
        scale = f16(2.0 ** rng.integers(-4, 2) * (1 + rng.integers(1, 1024) / 1024))
        minimum = f16(-scale * rng.integers(1, 4) * 1.37) if fused else np.float32(0)
        inverse = np.float32(1) / scale
        level = rng.integers(0, last, 64) + 0.5
        x = (minimum + (level * scale).astype(np.float32)).astype(np.float32)
        x = np.concatenate([(x.view(np.int32) + np.int32(k)).view(np.float32) for k in (-2, -1, 0, 1, 2)])
        right = np.rint((x - minimum) / scale)
        wrong = np.rint(fma(x, inverse, -(minimum * inverse)) if fused else (x - minimum) * inverse)
        values = x[right != wrong]
        if len(values) == 0:
            continue
        group = on_levels(rng, bits, scale, minimum)
        if f16((group.max() - group.min()) / np.float32(last)) != scale:
            continue
        place = spots(rng)
        group[place] = values[rng.integers(0, len(values), len(place))]
        return group
    raise RuntimeError("no scale tells division from the reciprocal")


def asymmetric(bits: int, range_: str, seed: int) -> np.ndarray:
    """All groups for the quantizer, [groups, 128]."""
    rng = np.random.default_rng(seed)
    last = 2**bits - 1
    uniform = lambda low, high: rng.uniform(low, high, N).astype(np.float32)
    normal = rng.standard_normal
    constant = lambda value: np.full(N, value, dtype=np.float32)
    near = constant(0.1)
    near[::3] = np.nextafter(np.float32(0.1), np.float32(1))
    zeros = constant(0.0)
    zeros[1::2] = -0.0
    negative_zero = np.abs(normal(N)).astype(np.float32)
    negative_zero[5] = -0.0
    groups = [
        ties(rng, bits), ties(rng, bits, 2.0**-12, 0.0), below_ties(rng, bits), beside_ties(rng, bits, False), beside_ties(rng, bits, True),
        3 + 0.3 * np.abs(normal(N)), -3 - 0.3 * np.abs(normal(N)),  # a range without zero
        constant(0.1), constant(1 / 3), constant(-1000.4), near, zeros, negative_zero,  # f16 of 0.1 and 1/3 lies below them
        uniform(-3e-5, last * 2e-5),  # scale and minimum are subnormal in f16
        1 + uniform(0, last * 3e-5), uniform(-3e-5, last * 0.1),  # one of the two
        normal(N), 30 * normal(N) + 5,
    ]
    # With 8 bits and 128 values no narrower range is ever better: clipping both ends costs 2 (0.025 * 255)^2 = 81 squared steps,
    # and all errors together are 128 / 4 at most.
    if range_ == "mse" and bits < 8:
        right = mse_parameters(bits)
        spread = 0.3 if bits == 1 else 1.0
        groups += [parting(rng, right, mse_parameters(bits, total), spread=spread) for total in OTHER_SUMS.values()]
        groups.append(parting(rng, right, mse_parameters(bits, contracted_ends=True), moved="largest", spread=spread))
    return np.stack([np.asarray(group, dtype=np.float32) for group in groups])


# --- The symmetric quantizer -------------------------------------------------------------------------------------


def on_borders(rng: np.random.Generator, bits: int, beside: bool) -> np.ndarray:
    """Values on the border of two cells of the scale that the group itself leads to; beside: a neighbour of it whose cell is another
    one when z / s is computed with 1 / s."""
    decide = symmetric_parameters(bits)
    cells = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)) if bits > 1 else np.array([0])
    for _ in range(2000):
        x = rng.standard_normal(N).astype(np.float32)
        place = spots(rng, 12)
        cell = cells[rng.integers(0, len(cells), len(place))]
        moved = rng.integers(-1, 2, len(place)).astype(np.int32) if beside else np.zeros(len(place), dtype=np.int32)
        for _ in range(8):  # until the scale is the one of the values that were put there
            scale = decide(x[None])[0, 0]
            values = (cell * scale).astype(np.float32)
            x[place] = np.where(values == 0, values, (values.view(np.int32) + moved).view(np.float32))
            if decide(x[None])[0, 0] == scale:
                break
        else:
            continue
        inverse = np.float32(1) / scale
        if not beside or (np.floor(x / scale) != np.floor(x * inverse)).any():
            return x
    raise RuntimeError("no group with values on its borders")


def symmetric(bits: int, seed: int) -> np.ndarray:
    """All groups for the symmetric quantizer, [groups, 128]."""
    rng = np.random.default_rng(seed)
    normal = lambda size=1.0: (size * rng.standard_normal(N)).astype(np.float32)
    zeros = np.zeros(N, dtype=np.float32)
    signed_zeros = normal()
    signed_zeros[::5], signed_zeros[1::5] = 0.0, -0.0
    right = symmetric_parameters(bits)
    step = STEP[bits]
    groups = [
        on_borders(rng, bits, False), zeros, signed_zeros, normal(3e-5 / step), normal(1e-9), normal(1e-3), normal() + 1,
        *(parting(rng, right, symmetric_parameters(bits, errors=total)) for total in OTHER_SUMS.values()),
        *(parting(rng, right, symmetric_parameters(bits, rms=total)) for total in OTHER_SUMS.values()),
    ]
    if bits > 1:  # one bit has the border zero alone, which a product with 1 / s keeps
        groups.append(on_borders(rng, bits, True))
    return np.stack(groups)


def all_symmetric(seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Bits of a channel and its 128 tokens, in turn."""
    for bits in (1, 2, 3, 4, 8):
        for group in symmetric(bits, seed + bits):
            yield bits, group
