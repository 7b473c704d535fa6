# SPDX-License-Identifier: Apache-2.0
"""Mixers of tools/make_fixtures.py that are written as classes: linear attention, WaveNet and Hyena.

Each says the parts of its state and how they start, draws its parameters, takes one token, and
checks itself against a parallel form in PyTorch that shares none of that.
"""
import math

import torch
from torch.nn import functional


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


def unchanged(_name, value):
    return value


def run(mixer, p, inputs):
    """Outputs (len, d_model) of layer 1, token by token, for inputs (len, d_model)."""
    state, outputs = mixer.start(1), []
    for u in inputs:
        out, state = mixer.token(p, 1, u, state, unchanged)
        outputs.append(out)
    return torch.stack(outputs)


def assert_same(found, expected):
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def prefix_of(layer):
    return f"backbone.layers.{layer}.mixer."


class LinearAttention:
    """kind: "linear_attention", "retnet" or "gla"."""

    def __init__(self, kind, d_model, n_heads, d_k, d_v):
        self.kind, self.d_model = kind, d_model
        self.n_heads, self.d_k, self.d_v = n_heads, d_k, d_v
        self.keys, self.d_inner = n_heads * d_k, n_heads * d_v
        self.parts = (("h", "h_start"),)
        if kind == "linear_attention":
            self.parts += (("z", "z_start"),)

    def ssm_cfg(self):
        return {"layer": self.kind, "num_heads": self.n_heads, "head_k_dim": self.d_k,
                "head_v_dim": self.d_v}

    def start(self, _layer):
        return (zeros(self.d_inner, self.d_k), zeros(self.n_heads, self.d_k))[:len(self.parts)]

    def random(self, layer, normal):
        d = self.d_model
        p = {"q_proj.weight": normal(self.keys, d, scale=d ** -0.5),
             "k_proj.weight": normal(self.keys, d, scale=d ** -0.5),
             "v_proj.weight": normal(self.d_inner, d, scale=d ** -0.5)}
        if self.kind != "linear_attention":
            p["g_proj.weight"] = normal(self.d_inner, d, scale=d ** -0.5)
        if self.kind == "gla":
            p["gk_proj.0.weight"] = normal(16, d, scale=d ** -0.5)
            p["gk_proj.1.weight"] = normal(self.keys, 16, scale=2)
            p["gk_proj.1.bias"] = normal(self.keys, scale=1)
            p["g_norm.weight"] = 1 + normal(self.d_v, scale=0.1)
        p["o_proj.weight"] = normal(d, self.d_inner, scale=self.d_inner ** -0.5)
        return {prefix_of(layer) + name: value for name, value in p.items()}

    def head_decays(self):
        return torch.tensor([1 - 2.0 ** (-5 - i) for i in range(self.n_heads)],
                            dtype=torch.float64)

    def by_channel(self, keys):
        """(n_heads d_k) -> (d_inner, d_k): for each channel, its head's."""
        return keys.reshape(self.n_heads, self.d_k).repeat_interleave(self.d_v, 0)

    def token(self, p, layer, u, state, point):
        def project(name, x=u):
            return p[prefix_of(layer) + name + ".weight"] @ x

        q, k, v = project("q_proj"), project("k_proj"), project("v_proj")
        decay = 1
        if self.kind == "linear_attention":
            q, k = functional.elu(q) + 1, functional.elu(k) + 1
        q, k, v = point("q", q), point("k", k), point("v", v)
        if self.kind == "gla":
            low = point("decay_low", project("gk_proj.0"))
            pre = project("gk_proj.1", low) + p[prefix_of(layer) + "gk_proj.1.bias"]
            pre = point("decay_pre", pre)
            decay = self.by_channel(point("decay", torch.sigmoid(pre) ** (1 / 16)))
        if self.kind == "retnet":
            decay = point("decay", self.head_decays()).repeat_interleave(self.d_v)[:, None]
        h = decay * state[0] + point("write", v[:, None] * self.by_channel(k))
        h = point("h", h)
        readout = (point("readout_h", h) * self.by_channel(q)).sum(1)
        readout = point("readout", readout)
        if self.kind == "linear_attention":
            z = point("z", state[1] + k.reshape(self.n_heads, self.d_k))
            normaliser = (z * q.reshape(self.n_heads, self.d_k)).sum(1) + 1e-6
            normaliser = point("normaliser", normaliser)
            y = point("y", readout / normaliser.repeat_interleave(self.d_v))
            return point("out", project("o_proj", y)), (h, z)
        norm = point("norm", self.normed(p, layer, readout))
        gate = point("gate", functional.silu(point("g", project("g_proj"))))
        gated = point("gated", gate * norm)
        return point("out", project("o_proj", gated)), (h,)

    def normed(self, p, layer, readout):
        """RMSNorm of each head, of what is read with scaled queries."""
        by_head = readout.reshape(-1, self.n_heads, self.d_v) * self.d_k ** -0.5
        scale = torch.sqrt((by_head * by_head).mean(-1, keepdim=True) + 1e-5)
        weight = p.get(prefix_of(layer) + "g_norm.weight", 1)
        return (weight * by_head / scale).reshape(readout.shape)

    def check(self, p):
        """The parallel form: (q k^T times the decays between) v, over whole matrices."""
        inputs = torch.linspace(-1, 1, 9 * self.d_model, dtype=torch.float64).sin()
        u = inputs.reshape(9, self.d_model)
        w = {name: p[prefix_of(1) + name + "_proj.weight"] for name in "qkvo"}
        q, k = (functional.elu(x) + 1 if self.kind == "linear_attention" else x
                for x in (u @ w["q"].T, u @ w["k"].T))
        q, k = (x.reshape(9, self.n_heads, self.d_k) for x in (q, k))
        v = (u @ w["v"].T).reshape(9, self.n_heads, self.d_v)
        log_decay = torch.zeros_like(q)
        if self.kind == "retnet":
            log_decay += torch.log(self.head_decays())[:, None]
        if self.kind == "gla":
            low = u @ p[prefix_of(1) + "gk_proj.0.weight"].T
            pre = low @ p[prefix_of(1) + "gk_proj.1.weight"].T + p[prefix_of(1) + "gk_proj.1.bias"]
            log_decay += functional.logsigmoid(pre).reshape(q.shape) / 16
        b = log_decay.cumsum(0)
        between = torch.exp(b[:, None] - b[None]) * torch.ones(9, 9).tril()[..., None, None]
        weights = torch.einsum("ihn,jhn,ijhn->ijh", q, k, between)
        readout = torch.einsum("ijh,jhe->ihe", weights, v)
        if self.kind == "linear_attention":
            y = (readout / (weights.sum(1) + 1e-6)[..., None]).reshape(9, -1)
        else:
            g = functional.silu(u @ p[prefix_of(1) + "g_proj.weight"].T)
            y = g * self.normed(p, 1, readout.reshape(9, -1))
        assert_same(run(self, p, u), y @ w["o"].T)


class WaveNet:
    def __init__(self, d_model, d_inner, width, cycle):
        self.d_model, self.d_inner, self.width, self.cycle = d_model, d_inner, width, cycle
        self.parts = (("queue", "queue_start"),)

    def ssm_cfg(self):
        return {"layer": "wavenet", "hidden_size": self.d_inner, "kernel_size": self.width,
                "dilation_cycle": self.cycle}

    def dilation(self, layer):
        return 2 ** (layer % self.cycle)

    def start(self, layer):
        return (zeros((self.width - 1) * self.dilation(layer), self.d_model),)

    def random(self, layer, normal):
        inputs = self.width * self.d_model
        p = {"conv.weight": normal(2 * self.d_inner, inputs, scale=1.5 * inputs ** -0.5),
             "conv.bias": normal(2 * self.d_inner, scale=0.3),
             "out_proj.weight": normal(self.d_model, self.d_inner, scale=self.d_inner ** -0.5)}
        return {prefix_of(layer) + name: value for name, value in p.items()}

    def token(self, p, layer, u, state, point):
        """The queue is a ring: the row of position p stands at p modulo its rows. The position goes
        along behind the state's only part."""
        queue, position = state[0], state[1] if len(state) > 1 else 0
        back = [self.dilation(layer) * k for k in range(self.width - 1, 0, -1)]
        taps = torch.cat([queue[(position - d) % len(queue)] for d in back] + [u])
        taps = point("taps", taps)
        conv = p[prefix_of(layer) + "conv.weight"] @ taps + p[prefix_of(layer) + "conv.bias"]
        f, g = conv.split(self.d_inner)
        f, g = point("f", f), point("g", g)
        z = point("z", torch.tanh(f) * torch.sigmoid(g))
        rows = list(queue)
        rows[position % len(rows)] = u
        return (point("out", p[prefix_of(layer) + "out_proj.weight"] @ z),
                (torch.stack(rows), position + 1))

    def check(self, p):
        """PyTorch's own convolutions, with dilation."""
        length, d = 23, self.dilation(1)
        u = torch.linspace(-1, 1, length * self.d_model, dtype=torch.float64).sin()
        u = u.reshape(length, self.d_model)
        weight = p[prefix_of(1) + "conv.weight"].reshape(-1, self.width, self.d_model)
        padded = functional.pad(u.T[None], ((self.width - 1) * d, 0))
        f, g = functional.conv1d(padded, weight.transpose(1, 2), p[prefix_of(1) + "conv.bias"],
                                 dilation=d)[0].split(self.d_inner)
        z = torch.tanh(f) * torch.sigmoid(g)
        assert_same(run(self, p, u), (p[prefix_of(1) + "out_proj.weight"] @ z).T)


class Hyena:
    def __init__(self, d_model, l_max, filter_order, emb_dim):
        self.d_model, self.l_max = d_model, l_max
        self.filter_order, self.emb_dim = filter_order, emb_dim
        self.parts = (("conv", "conv_state"), ("queue", "queue_start"))

    def ssm_cfg(self):
        return {"layer": "hyena", "l_max": self.l_max, "filter_order": self.filter_order,
                "emb_dim": self.emb_dim}

    def start(self, _layer):
        return zeros(2, 3 * self.d_model), zeros(self.l_max - 1, self.d_model)

    def random(self, layer, normal):
        d, order = self.d_model, self.filter_order
        mlp = "filter_fn.implicit_filter."
        p = {"in_proj.weight": normal(3 * d, d, scale=d ** -0.5),
             "in_proj.bias": normal(3 * d, scale=0.3),
             "short_filter.weight": normal(3 * d, 1, 3, scale=0.7),
             "short_filter.bias": normal(3 * d, scale=0.3),
             "filter_fn.bias": normal(d, scale=0.5),
             mlp + "0.weight": normal(order, self.emb_dim, scale=1),
             mlp + "0.bias": normal(order, scale=1),
             mlp + "1.freq": 1.5 + normal(1, order, scale=0.3),
             mlp + "2.weight": normal(order, order, scale=order ** -0.5),
             mlp + "2.bias": normal(order, scale=1),
             mlp + "4.weight": normal(order, order, scale=order ** -0.5),
             mlp + "4.bias": normal(order, scale=1),
             mlp + "6.weight": normal(d, order, scale=1),
             "out_proj.weight": normal(d, d, scale=d ** -0.5),
             "out_proj.bias": normal(d, scale=0.3)}
        return {prefix_of(layer) + name: value for name, value in p.items()}

    def tap(self, p, layer, lag):
        """K of one lag, (d_model), number by number from the formulas."""
        def of_mlp(name):
            return p[prefix_of(layer) + "filter_fn.implicit_filter." + name]

        share, angle = lag / (self.l_max - 1), 2 * math.pi * lag / self.l_max
        bands = (self.emb_dim - 1) // 2
        step = (bands - 1 - 1e-4) / (bands - 1) if bands > 1 else 0
        angles = [(1e-4 + i * step) * angle for i in range(bands)]
        h = torch.tensor([share, *map(math.cos, angles), *(-math.sin(a) for a in angles)],
                         dtype=torch.float64)
        for i in (0, 2, 4):
            h = of_mlp(f"{i}.weight") @ h + of_mlp(f"{i}.bias")
            h = torch.sin(of_mlp("1.freq")[0] * h)
        slowest, fastest = math.log(0.01) / 1.5, math.log(0.01) / 0.3
        rates = [slowest + (fastest - slowest) * e / (self.d_model - 1)
                 for e in range(self.d_model)]
        decay = torch.tensor([math.exp(-abs(rate) * share) for rate in rates],
                             dtype=torch.float64)
        return of_mlp("6.weight") @ h * decay

    def token(self, p, layer, u, state, point):
        """conv and queue are rows, the oldest first. The filter, which all tokens share, goes along
        behind them."""
        def param(name):
            return p[prefix_of(layer) + name]

        conv, queue = state[0], state[1]
        taps = state[2] if len(state) > 2 else [self.tap(p, layer, lag)
                                                for lag in range(self.l_max)]
        projected = point("in_proj", param("in_proj.weight") @ u + param("in_proj.bias"))
        window = torch.cat([conv, projected[None]])
        terms = [point(f"conv_term.{2 - k}", param("short_filter.weight")[:, 0, k] * row)
                 for k, row in enumerate(window)]
        short = point("conv", sum(terms) + param("short_filter.bias"))
        x0, x1, v = (point(name, part)
                     for name, part in zip(("x0", "x1", "v"), short.split(self.d_model)))
        w = point("w", v * x1)
        past = torch.cat([queue, w[None]])
        y = sum(tap * row for tap, row in zip(taps, past.flip(0)))
        y = point("y", y + param("filter_fn.bias") * w)
        gated = point("gated", y * x0)
        out = point("out", param("out_proj.weight") @ gated + param("out_proj.bias"))
        return out, (window[1:], past[1:], taps)

    def check(self, p):
        """The filter of all lags at once by PyTorch's layers, and PyTorch's own convolutions."""
        d, length, prefix = self.d_model, 23, prefix_of(1)
        u = torch.linspace(-1, 1, length * d, dtype=torch.float64).sin().reshape(length, d)
        t = torch.linspace(0, 1, self.l_max, dtype=torch.float64)[:, None]
        bands = (self.emb_dim - 1) // 2
        turns = 2 * math.pi * torch.arange(self.l_max, dtype=torch.float64)[:, None] / self.l_max
        z = torch.exp(-1j * torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64) * turns)
        h, mlp = torch.cat([t, z.real, z.imag], 1), prefix + "filter_fn.implicit_filter."
        for i in (0, 2, 4):
            h = functional.linear(h, p[f"{mlp}{i}.weight"], p[f"{mlp}{i}.bias"])
            h = torch.sin(p[mlp + "1.freq"] * h)
        rates = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, d, dtype=torch.float64)
        K = functional.linear(h, p[mlp + "6.weight"]) * torch.exp(-t * rates.abs())
        projected = functional.linear(u, p[prefix + "in_proj.weight"], p[prefix + "in_proj.bias"])
        short = functional.conv1d(projected.T[None], p[prefix + "short_filter.weight"],
                                  p[prefix + "short_filter.bias"], padding=2, groups=3 * d)
        x0, x1, v = short[0, :, :length].split(d)
        w = v * x1
        y = functional.conv1d(functional.pad(w[None], (self.l_max - 1, 0)),
                              K.T.flip(1)[:, None], groups=d)[0]
        gated = (y + p[prefix + "filter_fn.bias"][:, None] * w) * x0
        assert_same(run(self, p, u), functional.linear(gated.T, p[prefix + "out_proj.weight"],
                                                       p[prefix + "out_proj.bias"]))
