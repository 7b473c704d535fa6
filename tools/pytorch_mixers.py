# SPDX-License-Identifier: Apache-2.0
"""Mixers in plain PyTorch, as people write them: what tools/compare_with_pytorch.py trains beside
elapse's. Each takes and gives (batch, len, d_model)."""
import math

import torch
from torch.nn import functional


def projection(inputs, outputs, bias=False):
    return torch.nn.Linear(inputs, outputs, bias=bias)


class WaveNet(torch.nn.Module):
    """A gated, dilated causal conv1d and a projection."""

    def __init__(self, d_model, layer):
        super().__init__()
        self.dilation = 2 ** layer
        self.conv = torch.nn.Conv1d(d_model, 2 * d_model, 2, dilation=self.dilation)
        self.out_proj = projection(d_model, d_model)

    def forward(self, u):
        f, g = self.conv(functional.pad(u.transpose(1, 2), (self.dilation, 0))).chunk(2, dim=1)
        return self.out_proj((torch.tanh(f) * torch.sigmoid(g)).transpose(1, 2))


class Hyena(torch.nn.Module):
    """Poli et al., 2023, order 2, with elapse's sizes: the filter by an MLP of sines of as many lags
    as the sequence has, convolved by torch.fft."""

    def __init__(self, d_model, l_max=1024, order=64, emb_dim=33):
        super().__init__()
        self.in_proj = projection(d_model, 3 * d_model, True)
        self.short_filter = torch.nn.Conv1d(3 * d_model, 3 * d_model, 3, groups=3 * d_model,
                                            padding=2)
        self.freq = torch.nn.Parameter(torch.full((order,), 14.0))
        self.mlp = torch.nn.ModuleList(projection(n, order, True) for n in (emb_dim, order, order))
        self.last = projection(order, d_model)
        self.D = torch.nn.Parameter(torch.randn(d_model))
        self.out_proj = projection(d_model, d_model, True)
        bands = (emb_dim - 1) // 2
        t = torch.linspace(0, 1, l_max)[:, None]
        angles = 2 * math.pi * torch.arange(l_max)[:, None] / l_max
        angles = angles * torch.linspace(1e-4, bands - 1, bands)
        rates = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, d_model)
        self.register_buffer("features", torch.cat([t, angles.cos(), -angles.sin()], 1))
        self.register_buffer("decay", torch.exp(t * rates))

    def forward(self, u):
        length = u.shape[1]
        short = self.short_filter(self.in_proj(u).transpose(1, 2))[..., :length]
        x0, x1, v = short.chunk(3, dim=1)
        h = self.features[:length]
        for layer in self.mlp:
            h = torch.sin(self.freq * layer(h))
        kernel = (self.last(h) * self.decay[:length]).T
        w = v * x1
        spectrum = torch.fft.rfft(kernel, 2 * length) * torch.fft.rfft(w, 2 * length)
        y = torch.fft.irfft(spectrum, 2 * length)[..., :length] + w * self.D[:, None]
        return self.out_proj((y * x0).transpose(1, 2))


class LinearAttention(torch.nn.Module):
    """linear_attention, retnet or gla, with elapse's sizes; `chunk` 1: token by token, as the
    papers' recurrences stand. Otherwise so many tokens together, by the papers' chunkwise forms;
    that of GLA divides by decays, which is exact enough for the short chunks given here."""

    def __init__(self, kind, d_model, chunk):
        super().__init__()
        self.kind, self.chunk = kind, chunk
        self.heads = 4
        self.d_k = d_model // self.heads // (2 if kind == "gla" else 1)
        d_inner = d_model * (2 if kind == "retnet" else 1)
        keys = self.heads * self.d_k
        self.q_proj, self.k_proj = projection(d_model, keys), projection(d_model, keys)
        self.v_proj, self.o_proj = projection(d_model, d_inner), projection(d_inner, d_model)
        if kind != "linear_attention":
            self.g_proj = projection(d_model, d_inner)
        if kind == "gla":
            self.gk_proj = torch.nn.Sequential(projection(d_model, 16), projection(16, keys, True))
            self.g_norm = torch.nn.Parameter(torch.ones(d_inner // self.heads))
        rates = 1 - 2.0 ** (-5 - torch.arange(self.heads))
        self.register_buffer("log_decay", torch.log(rates)[:, None, None])

    def forward(self, u):
        def heads(x):
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = heads(self.q_proj(u)), heads(self.k_proj(u)), heads(self.v_proj(u))
        if self.kind == "linear_attention":
            q, k = functional.elu(q) + 1, functional.elu(k) + 1
            log_decay = torch.zeros(1)
        elif self.kind == "retnet":
            q, log_decay = q * self.d_k ** -0.5, self.log_decay
        else:
            q = q * self.d_k ** -0.5
            log_decay = heads(functional.logsigmoid(self.gk_proj(u)) / 16)
        log_decay = log_decay.expand_as(k)
        readout = (self.recurrent if self.chunk == 1 else self.chunked)(q, k, v, log_decay)
        if self.kind == "linear_attention":
            readout = readout / ((q * k.cumsum(2)).sum(-1, keepdim=True) + 1e-6)
        else:
            norm = readout * torch.rsqrt((readout * readout).mean(-1, keepdim=True) + 1e-5)
            readout = norm * self.g_norm if self.kind == "gla" else norm
        y = readout.transpose(1, 2).flatten(2)
        return self.o_proj(y if self.kind == "linear_attention"
                           else functional.silu(self.g_proj(u)) * y)

    def recurrent(self, q, k, v, log_decay):
        decay, h, out = torch.exp(log_decay), 0, []
        for t in range(q.shape[2]):
            write = k[:, :, t, :, None] * v[:, :, t, None, :]
            h = decay[:, :, t, :, None] * h + write
            out.append((q[:, :, t, :, None] * h).sum(2))
        return torch.stack(out, 2)

    def chunked(self, q, k, v, log_decay):
        q, k, v, log_decay = (x.unflatten(2, (-1, self.chunk)) for x in (q, k, v, log_decay))
        b = log_decay.cumsum(3)
        q, left = q * torch.exp(b), k * torch.exp(b[:, :, :, -1:] - b)
        weights = (q @ (k * torch.exp(-b)).transpose(3, 4)).tril()
        total, h, out = torch.exp(b[:, :, :, -1])[..., None], 0, []
        written = left.transpose(3, 4) @ v
        for i in range(q.shape[2]):
            inner = weights[:, :, i] @ v[:, :, i]
            out.append(inner if i == 0 else inner + q[:, :, i] @ h)
            h = total[:, :, i] * h + written[:, :, i]
        return torch.cat(out, 2)


class Mamba(torch.nn.Module):
    """Mamba-1 with the scan of state-spaces/mamba's selective_scan_ref: token by token."""

    def __init__(self, d_model, d_state=16, d_conv=4):
        super().__init__()
        d_inner, self.d_state, self.dt_rank = 2 * d_model, d_state, math.ceil(d_model / 16)
        self.in_proj = projection(d_model, 2 * d_inner)
        self.conv1d = torch.nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = projection(d_inner, self.dt_rank + 2 * d_state)
        self.dt_proj = projection(self.dt_rank, d_inner, bias=True)
        self.A_log = torch.nn.Parameter(
            torch.log(torch.arange(1.0, d_state + 1)).repeat(d_inner, 1))
        self.D = torch.nn.Parameter(torch.ones(d_inner))
        self.out_proj = projection(d_inner, d_model)

    def forward(self, u):
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = functional.silu(self.conv1d(x.transpose(1, 2))[..., :u.shape[1]].transpose(1, 2))
        low, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], -1)
        dt = functional.softplus(self.dt_proj(low))
        decay = torch.exp(dt[..., None] * -torch.exp(self.A_log))
        write = (dt * x)[..., None] * B[:, :, None]
        h, out = 0, []
        for t in range(u.shape[1]):
            h = decay[:, t] * h + write[:, t]
            out.append((h @ C[:, t, :, None])[..., 0])
        return self.out_proj((torch.stack(out, 1) + self.D * x) * functional.silu(z))


class Cell(torch.nn.Module):
    """PyTorch's own layer of recurrent cells, and a projection."""

    def __init__(self, cell, d_model):
        super().__init__()
        self.cell = cell(d_model, d_model, batch_first=True)
        self.out_proj = projection(d_model, d_model)

    def forward(self, u):
        return self.out_proj(self.cell(u)[0])


class S4D(torch.nn.Module):
    """Gu, Gupta, Goel and Re, 2022: the kernel by a Vandermonde product, convolved by transforms."""

    def __init__(self, d_model, n_states=32):
        super().__init__()
        order = torch.arange(n_states).repeat(d_model, 1)
        low, high = math.log(0.001), math.log(0.1)
        self.log_dt = torch.nn.Parameter(low + (high - low) * torch.rand(d_model))
        self.C = torch.nn.Parameter(torch.randn(d_model, n_states, 2) * 0.5 ** 0.5)
        self.log_A_real = torch.nn.Parameter(math.log(0.5) + torch.zeros(d_model, n_states))
        self.A_imag = torch.nn.Parameter(math.pi * order)
        self.D = torch.nn.Parameter(torch.randn(d_model))
        self.output_linear = projection(d_model, 2 * d_model, True)

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
        y = functional.gelu(y).transpose(1, 2)
        return functional.glu(self.output_linear(y))


class Attention(torch.nn.Module):
    """Rotary positions, causal, out of products and a softmax."""

    def __init__(self, d_model, length, head_dim=64):
        super().__init__()
        self.head_dim = head_dim
        self.q, self.k, self.v, self.o = (projection(d_model, d_model) for _ in range(4))
        frequencies = 10000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.outer(torch.arange(length), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.later = torch.full((length, length), float("-inf")).triu(1)

    def heads(self, x):  # (batch, heads, len, channels)
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def rotated(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin

    def forward(self, u):
        q, k = self.rotated(self.heads(self.q(u))), self.rotated(self.heads(self.k(u)))
        scores = q @ k.transpose(-1, -2) * self.head_dim ** -0.5 + self.later
        z = torch.softmax(scores, -1) @ self.heads(self.v(u))
        return self.o(z.transpose(1, 2).flatten(2))


class SwiGLU(torch.nn.Module):
    def __init__(self, d_model, d_intermediate):
        super().__init__()
        self.up, self.gate = (projection(d_model, d_intermediate) for _ in range(2))
        self.down = projection(d_intermediate, d_model)

    def forward(self, u):
        return self.down(functional.silu(self.gate(u)) * self.up(u))
