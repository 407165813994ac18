"""What caches lose, window by window: an independent measurement of the evaluation.

    python losses.py --models ../models --text books-heldout.txt --out ../losses.json
    python losses.py --model SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-135m --calibration smollm2.safetensors \\
        --kvquant smollm2-kvquant.safetensors \\
        --text wikitext-2=wikitext2-test.txt:64 --text books=books-heldout.txt:32 --out ../losses-smollm2-135m.json

The first form measures the two embedded models with the calibrations of ../calibration, the second any GGUF file of the
Llama architecture on any texts. Needs what generate.py needs; the second form `transformers` too, for the tokenizer.

Losses are mean negative log-likelihoods of tokens 1 .. 2047 of each window, teacher forced, everything quantized but sinks,
on the weights of the GGUF file; divergences are means over the same tokens of KL(f16 || cache), both in nats. Caches that --out
has with both are not measured again, and other ones of it are kept, so a run can be cut off by --seconds and go on later.
`scripts/write-results.mjs` makes docs/results.md of these files; `scripts/losses.mjs` puts the reference and the engine beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import queue
import statistics
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

import model as M
import reference as R

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import reference_logits  # noqa: E402

WINDOW = 2048
CHUNK = 16  # windows at a time

FOLDED = "xquant-cl:2@paper?deltaSpace=normalized"
TUNED_CL = [f"xquant-cl:{each}" for each in ("2@tuned", "3@tuned", "2@tuned?baseBits=2", "1@tuned", "2@tuned?group=256")]
# The rows of docs/results.md, those that matter most first. What users of llama.cpp have, and its relative:
BASELINES = ["q4_0", "q8_0", "lloyd-max:4", "lloyd-max:3", "lloyd-max:2"]
PAPER = [*(f"xquant:{bits}@paper" for bits in (4, 2, 3, 8)), *(f"xquant-cl:{bits}@paper" for bits in (2, 3, 4)),
         *(f"{name}?firstLayers=3" for name in ("kivi:3", "kivi:2", "xquant:3@paper", "xquant:2@paper"))]
COMMON = ["kv", "kivi:4", "kivi:3", "kivi:2", *BASELINES, "xquant:4@tuned", *TUNED_CL, *PAPER, "kvquant:4", "kvquant:3", "kvquant:2", "xquant:2@tuned", FOLDED, f"{FOLDED}&range=mse"]
MULTI_HEAD = [*COMMON, f"{FOLDED}&rotation=hadamard", "xquant:2@paper?form=latent", "xquant:2@paper?form=latent&outlier=f16"]
GROUPED = [*COMMON, f"{FOLDED}&rotation=hadamard&keyGrouping=perToken", "xquant:2@paper?outlier=f16", "xquant-cl:2@tuned?form=x"]
# Averages that make a multi-head model 9.4, 12.5, 18.8, 26.7 and 40 times smaller.
CALIBRATED_X = [f"xquant-cl:{bits}@calibrated" for bits in ("1.275", "0.851", "0.599", "1.7", "0.4")]
CALIBRATED_KV = [*(f"xquant-cl:{bits}@calibrated{predict}" for bits in ("2.25", "3.25", "4.25", "1.6") for predict in ("", "?predict=2")),
                 *(f"xquant:4.25@calibrated{basis}" for basis in ("", "?basis=tensor", "?basis=head")), "xquant-cl:1.25@calibrated?predict=2"]


@dataclass
class Job:
    """One model on one text, and which caches."""

    name: str
    model: Path
    windows: Tensor  # [windows, tokens of a window]
    caches: list[str]
    calibration: Path | None
    kvquant: Path | None
    weights: torch.dtype = torch.float64
    losses: dict[str, list[float]] = field(default_factory=dict)
    divergences: dict[str, list[float]] = field(default_factory=dict)

    def missing(self) -> list[str]:
        own = [spec for spec in self.caches if len(self.divergences.get(spec, [])) != len(self.windows)]
        return own and ["kv", *(spec for spec in own if spec != "kv")]


def divergence(exact: Tensor, own: Tensor, output: Tensor, tokens: Tensor) -> tuple[float, float]:
    """exact, own [n, hiddenSize]: final hidden states without and with a cache. tokens [n]. -> loss, mean KL(exact || own)."""
    log_p = (exact[:-1].double() @ output.double().T).log_softmax(-1)
    log_q = (own[:-1].double() @ output.double().T).log_softmax(-1)
    loss = -log_q.gather(1, tokens[1:, None]).mean()
    return float(loss), float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def measure(rank: int, count: int, jobs: list[Job], device: str, until: float, results) -> None:
    """One process of `count`: its part of the windows of every job, cache after cache. Puts (job, cache, rank, [(loss, divergence)]), at the end None."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    torch.set_grad_enabled(False)
    models: dict[Path, M.Model] = {}
    for index, job in enumerate(jobs):
        if job.model not in models:
            models.clear()
            models[job.model] = M.Model(job.model, device, job.weights)
        model = models[job.model]
        own = job.windows[rank::count].to(device)
        chunks = own.split(CHUNK) if len(own) else []
        exact: list[Tensor] = []
        for spec in job.missing():
            if time.time() > until:
                break
            file = job.kvquant if spec.startswith("kvquant") else job.calibration
            measured = []
            for c, chunk in enumerate(chunks):
                caches = M.create_cache(spec, model.config, model.layers, file, chunk.shape[1])
                hidden = M.forward(model, chunk, caches, past=0, teacher_forced=True).view(*chunk.shape, -1)
                if spec == "kv":
                    exact.append(hidden.float())
                measured += [divergence(e, h, model.output, ids) for e, h, ids in zip(exact[c], hidden, chunk)]
            results.put((index, spec, rank, measured))
    results.put(None)


def outlier_ranks(model: M.Model, ids: Tensor) -> list[int]:
    """By layer: how many entries of the first row of Bk^T are larger than that of the key channel with the largest mean
    magnitude (paper Table B.2)."""
    tap: dict[int, tuple[Tensor, Tensor]] = {}
    M.forward(model, ids[None], M.create_cache("kv", model.config, model.layers, None, len(ids)), past=0, teacher_forced=True, tap=tap)
    ranks = []
    for i, layer in enumerate(model.layers):
        row = R.svd(layer.w_k.T)[2][0].abs()
        keys = (tap[i][0].double() @ layer.w_k.T).abs().mean(0)
        ranks.append(int((row > row[keys.argmax()]).sum()))
    return ranks


def embedded_jobs(a: argparse.Namespace) -> tuple[list[Job], dict]:
    text = Path(a.text[0]).read_bytes()
    tokenizer = reference_logits.LlamaFile(a.models / "books-mha.gguf", "cpu").tokenizer()
    windows = whole_windows(tokenizer.encode(text.decode("utf-8")).ids, a.windows, a.window_length)
    caches = {"books-mha": CALIBRATED_X + MULTI_HEAD, "books-gqa": CALIBRATED_KV + GROUPED}
    jobs = [Job(name, a.models / f"{name}.gguf", windows, own, a.calibrations / f"{name}.xquant-calibration.safetensors", a.calibrations / f"{name}.safetensors") for name, own in caches.items()]
    return jobs, {"textSha256": hashlib.sha256(text).hexdigest()}


def other_jobs(a: argparse.Namespace) -> tuple[list[Job], dict]:
    from calibrate import text_encoder

    encode = text_encoder(a.model)
    config = M.read_config(a.model)
    carries_x = 2 * config.kv_dim > config.hidden_size
    own = (CALIBRATED_X if carries_x else CALIBRATED_KV) + (MULTI_HEAD if config.heads == config.kv_heads else GROUPED)
    own = [spec for spec in own if (a.kvquant or not spec.startswith("kvquant")) and (a.calibration or "@calibrated" not in spec)]
    jobs, texts = [], {}
    for each in a.text:
        name, _, rest = each.partition("=")
        path, _, count = rest.rpartition(":")
        text = Path(path).read_bytes()
        windows = whole_windows(encode(text.decode("utf-8")), int(count), a.window_length)
        jobs.append(Job(f"{a.name}/{name}", a.model, windows, a.caches.split(",") if a.caches else own, a.calibration, a.kvquant))
        texts[name] = hashlib.sha256(text).hexdigest()
    return jobs, {"textSha256": texts}


def whole_windows(ids: list[int], count: int, length: int) -> Tensor:
    if len(ids) < count * length:
        raise SystemExit(f"the text has {len(ids) // length} windows, not {count}")
    return torch.tensor(ids[: count * length]).view(count, length)


def write(path: Path, jobs: list[Job], about: dict) -> None:
    named = lambda of: {job.name: of(job) for job in jobs}
    result = {**about, "windowLength": jobs[0].windows.shape[1], "losses": named(lambda job: job.losses), "divergences": named(lambda job: job.divergences)}
    text = json.dumps(result, indent=1)
    for job in jobs:  # One line for each cache.
        for numbers in (*job.losses.values(), *job.divergences.values()):
            text = text.replace(json.dumps(numbers, indent=1).replace("\n", "\n   "), json.dumps(numbers))
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with books-mha.gguf and books-gqa.gguf")
    parser.add_argument("--calibrations", type=Path, default=Path(__file__).parent.parent / "calibration", help="folder with their calibrations")
    parser.add_argument("--windows", type=int, default=96, help="of the embedded models")
    parser.add_argument("--model", type=Path, help="one GGUF file instead")
    parser.add_argument("--name", help="of that model in the result")
    parser.add_argument("--calibration", type=Path, help="of that model, from calibrate.py")
    parser.add_argument("--kvquant", type=Path, help="of that model, from calibrate_kvquant.py")
    parser.add_argument("--caches", help="comma separated, for that model; kv is measured in any case")
    parser.add_argument("--text", action="append", required=True, help="held-out text, UTF-8; with --model NAME=PATH:WINDOWS, several")
    parser.add_argument("--window-length", type=int, default=WINDOW, help="tokens of a window, a multiple of 128")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no cache after so many")
    parser.add_argument("--processes", type=int, default=4, help="each has the model and its part of the windows; 1 for a large model")
    parser.add_argument("--weights", choices=("float64", "float32"), default="float64", help="how large matrices are held; sums are f64 in any case")
    parser.add_argument("--device", default="cuda")
    a = parser.parse_args()
    if (a.models is None) == (a.model is None):
        parser.error("either --models or --model")
    begin = time.time()
    torch.set_grad_enabled(False)
    jobs, about = embedded_jobs(a) if a.models else other_jobs(a)
    about = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "gpu": torch.cuda.get_device_name() if a.device == "cuda" else "none", "torch": torch.__version__, **about}
    known = json.loads(a.out.read_text()) if a.out.exists() else {}
    if known and known["textSha256"] != about["textSha256"]:
        raise SystemExit(f"{a.out} has losses of other texts")
    for job in jobs:
        job.weights = getattr(torch, a.weights)
        job.losses, job.divergences = (known.get(part, {}).get(job.name, {}) for part in ("losses", "divergences"))
    ranks = dict(known.get("outlierRanks", {}))
    for job in jobs:
        name = job.name.split("/")[0]
        if name not in ranks:
            ranks[name] = outlier_ranks(M.Model(job.model, a.device, job.weights), job.windows[0, :512].to(a.device))
    about["outlierRanks"] = ranks

    context = get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=measure, args=(rank, a.processes, jobs, a.device, begin + a.seconds, results)) for rank in range(a.processes)]
    for worker in workers:
        worker.start()
    parts: dict[tuple[int, str], dict[int, list]] = {}
    running = a.processes
    while running:
        try:
            part = results.get(timeout=10)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise SystemExit("a process failed")
            continue
        if part is None:
            running -= 1
            continue
        index, spec, rank, measured = part
        parts.setdefault((index, spec), {})[rank] = measured
        if len(parts[index, spec]) < a.processes:
            continue
        job, found = jobs[index], parts.pop((index, spec))
        own = [found[w % a.processes][w // a.processes] for w in range(len(job.windows))]
        # Rounding below what one unit in the last place of a float does anywhere.
        job.losses[spec], job.divergences[spec] = [round(loss, 7) for loss, _ in own], [round(kl, 7) for _, kl in own]
        write(a.out, jobs, about)
        differences = [loss - exact for loss, exact in zip(job.losses[spec], job.losses["kv"])]
        mean, error = statistics.fmean(differences), statistics.pstdev(differences) / math.sqrt(max(1, len(own) - 1))
        print(f"{job.name} {spec}: {100 * math.expm1(mean):+.3f} % of perplexity (standard error {100 * error:.3f}), {time.time() - begin:.0f} s", flush=True)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
