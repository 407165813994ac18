"""Every cache in PyTorch: what a layer input becomes when it is stored, and what reading gives back.

The caches here store what reading back gives (x^), not bytes: `reference.quantize` is the same code that makes the
byte-exact cases. Sums are f64; a tensor that a program would keep is rounded to f32.

Common to all caches: a row is rounded to f16 when it is appended (the residual window is f16, and a block that
arrives whole takes the same way, so that appending one by one or at once gives the same bytes), and block
floor(position / 128) is quantized when its 128 tokens are there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import torch
from torch import Tensor

import baselines as B
import calibrated as C
import reference as R

if TYPE_CHECKING:
    from model import Config, Layer


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
    first_layers: int = 0  # so many layers of kivi and xquant get `first_bits` (paper Table 4)
    first_bits: int = 4
    outlier: str = "quantized"  # 'f16': channel 0 of the key latents is not quantized (paper App. B)
    sinks: int = 0  # first positions that stay in f16, outside every group
    # `@calibrated`: average bits an element of K and V, layers that a layer is predicted from, blocks of its basis.
    average: float = 0.0
    predict: int = 0
    basis: str = "joint"


QUERY = {  # option of a cache argument -> field, type
    "form": ("form", str), "deltaSpace": ("delta_space", str), "rotation": ("rotation", str), "range": ("range", str),
    "keyGrouping": ("key_latent_grouping", str), "baseBits": ("base_bits", int), "group": ("group_size", int),
    "firstLayers": ("first_layers", int), "outlier": ("outlier", str),
    "predict": ("predict", int), "basis": ("basis", str), "sinks": ("sinks", int),
}


def parse_cache(spec: str, config: Config) -> CacheOptions:
    """NAME[:BITS][@PRESET][?option=value&...]. Presets: paper = everything off, tuned = everything on.

    The names are those of `xquant` and of baselines.py.
    """
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
    per_channel = options.name == "kivi" or (options.name == "xquant" and options.form == "latent" and options.key_latent_grouping == "perChannel")
    if options.sinks and per_channel:
        raise ValueError(f"{spec}: groups along tokens have no sinks here; say sinks=0")
    return options


Jitter = Callable[[Tensor], Tensor]  # how a kept tensor is rounded to f32; see `ulp_jitter`


def to_f32(x: Tensor) -> Tensor:
    return x.float()


class Projection:
    """Wk and Wv of one layer as its cache reads them: gain and rotations folded in, in f64, then rounded to f32."""

    def __init__(self, layer: Layer, options: CacheOptions):
        w_k, w_v = layer.w_k, layer.w_v
        self.carries_x = 2 * len(w_k) > w_k.shape[1]  # calibrated: else [K | V] is the carrier
        self.transform, self.bits, self.levels = None, None, None
        if options.delta_space == "normalized":
            w_k, w_v = w_k * layer.attention_norm, w_v * layer.attention_norm
        rotated = options.rotation == "hadamard"
        # Rows that are stored in full width are rotated themselves; latent factors are rotated inside the latent. Their
        # signs are fixed before any rotation.
        self.full_width_rows = options.name == "xquant-cl" or options.form == "x"
        self.rotate_rows = rotated and self.full_width_rows
        if options.form == "latent" and options.name == "xquant-cl":
            down, _ = self.factor(layer, f"kv-{options.delta_space}", torch.cat((w_k, w_v)), rotated)
            self.down_kv = (R.rotate_inputs(down) if rotated else down).float()
        elif options.form == "latent":
            for name, w in (("k", w_k), ("v", w_v)):
                down, up = self.factor(layer, name, w, rotated)
                setattr(self, f"down_{name}", down.float())
                setattr(self, f"up_{name}", up.float())
        if self.rotate_rows:
            w_k, w_v = R.rotate_inputs(w_k), R.rotate_inputs(w_v)
        self.w_k, self.w_v = w_k.float(), w_v.float()

    @staticmethod
    def factor(layer: Layer, name: str, weight: Tensor, rotated: bool) -> tuple[Tensor, Tensor]:
        """weight [outDim, hiddenSize] -> down [latentRank, hiddenSize] (rows of U^T) and up [outDim, latentRank]."""
        if name not in layer.factors:  # once, whatever the cache does with them
            layer.factors[name] = R.svd(weight.T)
        u, s, vt = layer.factors[name]
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
        if o.name in ("kv", "kivi", *B.NAMES):
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
            rows = [row[self.sealed_length : complete] for row in self.rows]
            fresh = self.seal(rows, jitter)
            if self.options.sinks and self.options.name != "calibrated":
                is_sink = (self.positions(len(rows[0])) < self.options.sinks)[:, None]
                fresh = [torch.where(is_sink, row, hat) for row, hat in zip(rows, fresh)]
            self.sealed = [torch.cat(pair) for pair in zip(self.sealed, fresh)] if self.sealed else fresh
            self.sealed_length = complete

    def positions(self, count: int) -> Tensor:
        """Of the next rows that are sealed: in their sequence, of which several may lie one after another."""
        index = torch.arange(self.sealed_length, self.sealed_length + count, device=self.layer.w_k.device)
        return index % self.shared["window"] if "window" in self.shared else index

    def seal(self, rows: list[Tensor], jitter: Jitter) -> list[Tensor]:
        """Whole blocks of rows -> what they read back as, sinks like all others."""
        o, p = self.options, self.projection
        group = o.group_size
        bits = o.first_bits if self.index < o.first_layers else o.bits
        hat = lambda x, bits, grouping, range_=o.range: R.quantize(x, bits, group, grouping, range_, packed=False).x_hat
        if o.name == "kv":
            return rows
        if o.name == "kivi":
            return [hat(rows[0], bits, "perChannel", "minmax"), hat(rows[1], bits, "perToken", "minmax")]
        if o.name == "kvquant":
            return [B.kvquant_keys(rows[0], p.levels), B.kvquant_values(rows[1], p.levels)]
        if o.name in B.NAMES:
            config = self.shared["config"]
            angles = config.angles(self.positions(len(rows[0])))
            return list(B.rotated_heads(o.name, bits, rows[0], rows[1], config.head_dim, angles, config.layout))
        if o.name == "calibrated":
            return [self.seal_calibrated(rows[0], jitter)]
        if o.name == "xquant":
            if o.form == "x":
                return [hat(rows[0], bits, "perToken")]
            exact = 1 if o.outlier == "f16" else 0
            keys = hat(rows[0][:, exact:].contiguous(), bits, o.key_latent_grouping)
            return [torch.cat((rows[0][:, :exact], keys), 1), hat(rows[1], bits, "perToken")]
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
            if self.options.name in ("kv", "kivi", *B.NAMES):
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

    calibration: the file that the cache needs, of calibrate.py or of calibrate_kvquant.py.
    window: tokens of a sequence, where several lie one after another and are sealed at once.
    """
    options, shared = parse_cache(spec, config), {"config": config}
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
            if own.name == "kvquant":
                layer.projections[own].levels = B.read_levels(calibration, own.bits, str(layer.w_k.device))[i]
        caches.append(LayerCache(i, own, layer, shared))
    return caches


@functools.lru_cache(maxsize=2)
def calibrated_set(options: CacheOptions, elements: int, path: Path, device: str) -> tuple[list[C.LayerTransform], list[Tensor]]:
    """What a calibrated cache reads and writes with, and the bits of its channels, by layer."""
    chosen = C.read_set(path, options.average, options.predict, options.basis, device)
    bits = C.allocate([t.importance for t in chosen.layers], elements, options.average, chosen.distortion)
    return chosen.layers, [each.to(device) for each in bits]


def calibrated_cache(options: CacheOptions, config: Config, layers: list[Layer], shared: dict, path: Path) -> list[LayerCache]:
    transforms, bits = calibrated_set(options, 2 * config.kv_dim, path, str(layers[0].w_k.device))
    caches = []
    for i, layer in enumerate(layers):
        layer.projections[options] = Projection(layer, options)
        layer.projections[options].transform, layer.projections[options].bits = transforms[i], bits[i]
        caches.append(LayerCache(i, options, layer, shared))
    return caches
