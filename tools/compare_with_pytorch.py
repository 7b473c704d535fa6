#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times training steps of elapse and of PyTorch on the CPU, side by side.

Both train the model of `elapse bench train.<mixer>-256x4`: byte embeddings, 4 residual layers of
d_model 256 (RMSNorm, mixer, projection), tied head, next-token loss over 8 sequences of 256, clipped
gradients, AdamW. PyTorch's mixer is its own nn.RNN, nn.LSTM or nn.GRU; S4D is written as its authors
do, with torch.fft; of `attention`, a layer of Transformer++ out of linear maps, products and softmax.
The two take turns, and the best of each counts, so that both meet the same machine.

    /usr/bin/python3 tools/compare_with_pytorch.py [--threads 2] [--rounds 3] [MIXER ...]

with Debian's python3-torch and libopenblas0-openmp: without it, PyTorch multiplies matrices by the
reference BLAS, ten times slower. Mixers: rnn, lstm, gru, s4d, attention; all where none is named.
"""
import argparse
import json
import math
import pathlib
import subprocess
import tempfile
import time

import torch

ELAPSE = pathlib.Path(__file__).resolve().parent.parent / "build/elapse"
D_MODEL, LAYERS, VOCAB, SEQUENCES, LENGTH = 256, 4, 256, 8, 256
S4D_STATES = 32  # complex
HEAD_DIM, D_INTERMEDIATE = 64, 704
SECONDS_A_ROUND = 3


class Cells(torch.nn.Module):
    def __init__(self, cells):
        super().__init__()
        self.cells = cells(D_MODEL, D_MODEL, batch_first=True)
        self.out_proj = torch.nn.Linear(D_MODEL, D_MODEL, bias=False)

    def forward(self, x):
        return self.out_proj(self.cells(x)[0])


class S4D(torch.nn.Module):
    """Gu, Gupta, Goel and Re, 2022: the kernel by a Vandermonde product, convolved by transforms."""

    def __init__(self):
        super().__init__()
        order = torch.arange(S4D_STATES).repeat(D_MODEL, 1)
        low, high = math.log(0.001), math.log(0.1)
        self.log_dt = torch.nn.Parameter(low + (high - low) * torch.rand(D_MODEL))
        self.C = torch.nn.Parameter(torch.randn(D_MODEL, S4D_STATES, 2) * 0.5 ** 0.5)
        self.log_A_real = torch.nn.Parameter(math.log(0.5) + torch.zeros(D_MODEL, S4D_STATES))
        self.A_imag = torch.nn.Parameter(math.pi * order)
        self.D = torch.nn.Parameter(torch.randn(D_MODEL))
        self.output_linear = torch.nn.Linear(D_MODEL, 2 * D_MODEL)

    def kernel(self, length):
        A = torch.complex(-torch.exp(self.log_A_real), self.A_imag)
        dtA = A * torch.exp(self.log_dt)[:, None]
        C = torch.view_as_complex(self.C) * (torch.exp(dtA) - 1) / A
        powers = torch.exp(dtA[..., None] * torch.arange(length))
        return 2 * torch.einsum("hn,hnl->hl", C, powers).real

    def forward(self, x):
        length, u = x.shape[1], x.transpose(1, 2)
        spectrum = torch.fft.rfft(self.kernel(length), 2 * length) * torch.fft.rfft(u, 2 * length)
        y = torch.fft.irfft(spectrum, 2 * length)[..., :length] + u * self.D[:, None]
        y = torch.nn.functional.gelu(y).transpose(1, 2)
        return torch.nn.functional.glu(self.output_linear(y))


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(D_MODEL))

    def forward(self, x):
        return self.weight * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)


class Layer(torch.nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.norm = Norm()
        self.mixer = mixer()

    def forward(self, x):
        return x + self.mixer(self.norm(x))


def linear(inputs, outputs):
    return torch.nn.Linear(inputs, outputs, bias=False)


class TransformerLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.norm2 = Norm(), Norm()
        self.q, self.k, self.v, self.o = (linear(D_MODEL, D_MODEL) for _ in range(4))
        self.up, self.gate = linear(D_MODEL, D_INTERMEDIATE), linear(D_MODEL, D_INTERMEDIATE)
        self.down = linear(D_INTERMEDIATE, D_MODEL)
        angles = torch.outer(torch.arange(LENGTH),
                             10000.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.later = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)

    def heads(self, x):  # (sequences, heads, tokens, channels)
        return x.reshape(*x.shape[:2], -1, HEAD_DIM).transpose(1, 2)

    def rotated(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin

    def attention(self, u):
        q, k = self.rotated(self.heads(self.q(u))), self.rotated(self.heads(self.k(u)))
        scores = q @ k.transpose(-1, -2) * HEAD_DIM ** -0.5 + self.later
        z = torch.softmax(scores, -1) @ self.heads(self.v(u))
        return self.o(z.transpose(1, 2).flatten(2))

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        u = self.norm2(x)
        return x + self.down(torch.nn.functional.silu(self.gate(u)) * self.up(u))


def residual(mixer):
    return lambda: Layer(mixer)


def cells(kind):
    return residual(lambda: Cells(kind))


LAYERS_OF = {"rnn": cells(torch.nn.RNN), "lstm": cells(torch.nn.LSTM), "gru": cells(torch.nn.GRU),
             "s4d": residual(S4D), "attention": TransformerLayer}


class Model(torch.nn.Module):
    def __init__(self, make_layer):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, D_MODEL)
        self.layers = torch.nn.Sequential(*(make_layer() for _ in range(LAYERS)))
        self.norm = Norm()

    def forward(self, tokens):
        return self.norm(self.layers(self.embedding(tokens))) @ self.embedding.weight.T


class Training:
    def __init__(self, name):
        torch.manual_seed(0)
        self.model = Model(LAYERS_OF[name])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1)

    def step(self):
        tokens = torch.randint(VOCAB, (SEQUENCES, LENGTH + 1))
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def best_milliseconds(self):
        self.step()
        best, end = float("inf"), time.perf_counter() + SECONDS_A_ROUND
        while time.perf_counter() < end:
            begin = time.perf_counter()
            self.step()
            best = min(best, time.perf_counter() - begin)
        return best * 1e3


def elapse_milliseconds(name, threads):
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder) / "results.json"
        subprocess.run([ELAPSE, "bench", f"train.{name}-256x4", "--threads", str(threads),
                        "--json", results], check=True, capture_output=True)
        (row,) = json.loads(results.read_text())
        return row["value"]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixers", nargs="*", metavar="MIXER")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    unknown = sorted(set(args.mixers) - set(LAYERS_OF))
    if unknown:
        parser.error(f"{unknown[0]}: expected one of {', '.join(LAYERS_OF)}")
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {args.threads} threads, ms a step\n"
          f"{'mixer':9} {'elapse':>8} {'PyTorch':>8} {'ratio':>6}")
    for name in args.mixers or LAYERS_OF:
        training = Training(name)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(elapse_milliseconds(name, args.threads))
            theirs.append(training.best_milliseconds())
        print(f"{name:9} {min(ours):8.1f} {min(theirs):8.1f} {min(ours) / min(theirs):6.2f}",
              flush=True)


if __name__ == "__main__":
    main()
