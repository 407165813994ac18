"""What caches lose, window by window: an independent measurement of the evaluation.

    python losses.py --models ../models --text books-heldout.txt --windows 96 --out ../losses.json
    python losses.py --model SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-135m --calibration smollm2.safetensors \
        --text wikitext-2=wikitext2-test.txt:64 --text books=books-heldout.txt:32 --out ../losses-smollm2-135m.json

The first form measures the two embedded models with the calibrations of ../calibration, the second any GGUF file of the
Llama architecture on any texts. Needs what generate.py needs; the second form `transformers` too, for the tokenizer. The numbers are mean negative log-likelihoods of tokens 1 .. 2047 of each window, teacher
forced, everything quantized, on the weights of the GGUF files. `scripts/losses.mjs` puts those of the reference and the
engine beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

import model as M

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import reference_logits  # noqa: E402

WINDOW = 2048
CHUNK = 16  # windows at a time
WORKERS = 4

PAPER = [f"{name}:{bits}{suffix}" for name, suffix in (("kivi", ""), ("xquant", "@paper"), ("xquant-cl", "@paper")) for bits in (4, 3, 2)]
FOLDED = "xquant-cl:2@paper?deltaSpace=normalized"
TUNED = ["xquant:4@tuned?sinks=0", "xquant:2@tuned?sinks=0", "xquant-cl:3@tuned?sinks=0", "xquant-cl:2@tuned?sinks=0",
         "xquant-cl:2@tuned?baseBits=2&sinks=0", "xquant-cl:2@tuned?group=256&sinks=0", "xquant-cl:1@tuned?sinks=0"]
# Averages that make the embedded model 12.55, 18.8 and 26.7 times smaller; 7.1 and 10 times; and what other models are asked.
CALIBRATED = {
    "books-mha": [f"xquant-cl:{bits}@calibrated" for bits in ("1.275", "0.851", "0.599")],
    "books-gqa": [f"xquant-cl:{bits}@calibrated{predict}" for bits in ("4.25", "2.25", "1.6") for predict in ("", "?predict=2")]
    + [f"xquant:4.25@calibrated{basis}" for basis in ("", "?basis=tensor", "?basis=head")],
}
OTHER = ["kv", "kivi:4", "kivi:2", "xquant:4@paper", "xquant:4@tuned?sinks=0", "xquant-cl:3@tuned?sinks=0", "xquant-cl:2@paper", "xquant-cl:2@tuned?sinks=0",
         *(f"xquant-cl:{bits}@calibrated{predict}" for bits in ("4.25", "3.25", "2.25", "1.6") for predict in ("", "?predict=2")),
         *(f"xquant:{bits}@calibrated?basis={basis}" for bits in ("4.25", "3.25") for basis in ("joint", "tensor", "head"))]
CACHES = {
    "books-mha": ["kv", *PAPER,
                  *(f"xquant:{bits}@paper?{option}" for option in ("rotation=hadamard", "form=latent") for bits in (4, 3, 2)),
                  *(f"xquant-cl:{bits}@paper?deltaSpace=normalized" for bits in (4, 3, 2)),
                  f"{FOLDED}&rotation=hadamard", f"{FOLDED}&range=mse", *TUNED],
    "books-gqa": ["kv", *PAPER, FOLDED, f"{FOLDED}&range=mse", *TUNED, "xquant:4@paper?form=x", "xquant-cl:2@tuned?form=x&sinks=0"],
}


def window_losses(path: Path, spec: str, ids: list[int], device: str, calibration: Path | None) -> list[float]:
    torch.set_num_threads(1)
    model = M.Model(path, device)
    windows = torch.tensor(ids, device=device).view(-1, WINDOW)
    return [float(nll) for chunk in windows.split(CHUNK) for nll in M.perplexity_windows(model, spec, chunk, calibration=calibration)]


@dataclass
class Job:
    """One model on one text."""

    name: str
    model: Path
    ids: list[int]
    caches: list[str]
    calibration: Path | None


def embedded_jobs(a: argparse.Namespace) -> tuple[list[Job], dict]:
    text = Path(a.text[0]).read_bytes()
    tokenizer = reference_logits.LlamaFile(a.models / "books-mha.gguf", "cpu").tokenizer()
    ids = tokenizer.encode(text.decode("utf-8")).ids[: a.windows * WINDOW]
    jobs = [Job(name, a.models / f"{name}.gguf", ids, caches + CALIBRATED[name], a.calibrations / f"{name}.xquant-calibration.safetensors") for name, caches in CACHES.items()]
    return jobs, {"textSha256": hashlib.sha256(text).hexdigest()}


def other_jobs(a: argparse.Namespace) -> tuple[list[Job], dict]:
    from calibrate import text_encoder

    encode = text_encoder(a.model)
    jobs, texts = [], {}
    for each in a.text:
        name, _, rest = each.partition("=")
        path, _, count = rest.rpartition(":")
        text = Path(path).read_bytes()
        ids = encode(text.decode("utf-8"))[: int(count) * WINDOW]
        jobs.append(Job(f"{a.name}/{name}", a.model, ids, a.caches.split(",") if a.caches else OTHER, a.calibration))
        texts[name] = hashlib.sha256(text).hexdigest()
    return jobs, {"textSha256": texts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with books-mha.gguf and books-gqa.gguf")
    parser.add_argument("--calibrations", type=Path, default=Path(__file__).parent.parent / "calibration", help="folder with their calibrations")
    parser.add_argument("--windows", type=int, default=96, help="of the embedded models")
    parser.add_argument("--model", type=Path, help="one GGUF file instead")
    parser.add_argument("--name", help="of that model in the result")
    parser.add_argument("--calibration", type=Path, help="of that model")
    parser.add_argument("--caches", help="comma separated, for that model")
    parser.add_argument("--text", action="append", required=True, help="held-out text, UTF-8; with --model NAME=PATH:WINDOWS, several")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    a = parser.parse_args()
    if (a.models is None) == (a.model is None):
        parser.error("either --models or --model")
    begin = time.time()
    jobs, texts = embedded_jobs(a) if a.models else other_jobs(a)

    losses: dict[str, dict[str, list[float]]] = {job.name: {} for job in jobs}
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        running = [(job.name, spec, pool.submit(window_losses, job.model, spec, job.ids, a.device, job.calibration)) for job in jobs for spec in job.caches]
        for name, spec, future in running:
            # Rounding below what one unit in the last place of a float does anywhere.
            losses[name][spec] = own = [round(nll, 7) for nll in future.result()]
            differences = [loss - exact for loss, exact in zip(own, losses[name]["kv"])]
            mean, error = statistics.fmean(differences), statistics.pstdev(differences) / math.sqrt(max(1, len(own) - 1))
            print(f"{name} {spec}: {100 * math.expm1(mean):+.3f} % of perplexity (standard error {100 * error:.3f}), {time.time() - begin:.0f} s", flush=True)
    gpu = torch.cuda.get_device_name() if a.device == "cuda" else "none"
    result = {"gpu": gpu, "torch": torch.__version__, **texts, "windowLength": WINDOW, "losses": losses}
    lines = json.dumps(result, indent=1)
    # One line for each cache.
    for name in losses:
        for spec, own in losses[name].items():
            lines = lines.replace(json.dumps(own, indent=1).replace("\n", "\n   "), json.dumps(own))
    a.out.write_text(lines + "\n")


if __name__ == "__main__":
    main()
