// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

// The rows of one head at every position of a sequence, first those that stood before its tokens.
template <class T>
struct HeadRows {
  std::vector<T*> k, v;

  void add(const KeyValueRows& rows, int64_t begin, int64_t end, int64_t column) {
    for (int64_t i = begin; i < end; ++i) {
      k.push_back(rows.k ? Matrix<T>(rows.k).row(i) + column : nullptr);
      v.push_back(rows.v ? Matrix<T>(rows.v).row(i) + column : nullptr);
    }
  }
};

// `past` and `own` are values, or gradients of them.
template <class T>
HeadRows<T> rows_of(const AttentionInputs& in, const PastRows& past, const KeyValueRows& own,
                    int64_t sequence, int64_t kv_head) {
  const int64_t* cu = in.seqs.cu_seqlens.data<int64_t>();
  const int64_t column = kv_head * in.head_dim();
  const auto s = static_cast<size_t>(sequence);
  HeadRows<T> rows;
  for (size_t i = 0; !in.past.empty() && i < in.past[s].size(); ++i) {
    rows.add(past.empty() ? KeyValueRows() : past[s][i], 0, in.past[s][i].k.dim(0), column);
  }
  rows.add(own, cu[sequence], cu[sequence + 1], column);
  return rows;
}

template <class T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(a[i]) * b[i];
  return sum;
}

// One head of a sequence: calls visit(position) for what the query at `at` sees.
template <class Visit>
void for_each_seen(const AttentionPattern& pattern, int64_t at, Visit&& visit) {
  for (int64_t j = 0; j <= at; ++j) {
    if (pattern.sees(at - j)) visit(j);
  }
}

template <class T>
void attention_forward(Device&, const AttentionForward& args) {
  const AttentionInputs& in = args.in;
  const int64_t head_dim = in.head_dim();
  const int64_t* cu = in.seqs.cu_seqlens.data<int64_t>();
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  for (int64_t s = 0; s < in.seqs.count(); ++s) {
    const int64_t past = in.past_length(s);
    for (int64_t h = 0; h < in.n_heads; ++h) {
      const HeadRows<T> rows = rows_of<T>(in, in.past, {in.k, in.v}, s, in.kv_head_of(h));
      std::vector<double> scores(rows.k.size());
      for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
        const T* q = Matrix<T>(in.q).row(t) + h * head_dim;
        T* z = Matrix<T>(args.z).row(t) + h * head_dim;
        const int64_t at = past + t - cu[s];
        double largest = -std::numeric_limits<double>::infinity(), sum = 0;
        for_each_seen(in.pattern, at, [&](int64_t j) {
          const auto i = static_cast<size_t>(j);
          scores[i] = scale * dot(q, rows.k[i], head_dim);
          largest = std::max(largest, scores[i]);
        });
        std::vector<double> out(static_cast<size_t>(head_dim), 0);
        for_each_seen(in.pattern, at, [&](int64_t j) {
          const double weight = std::exp(scores[static_cast<size_t>(j)] - largest);
          sum += weight;
          for (int64_t e = 0; e < head_dim; ++e) {
            out[static_cast<size_t>(e)] += weight * rows.v[static_cast<size_t>(j)][e];
          }
        });
        for (int64_t e = 0; e < head_dim; ++e) {
          z[e] = static_cast<T>(out[static_cast<size_t>(e)] / sum);
        }
        if (args.lse) Matrix<T>(args.lse)(t, h) = static_cast<T>(largest + std::log(sum));
      }
    }
  }
}

// The gradients of one head's keys and values, by position and channel.
struct HeadSums {
  std::vector<double> dk, dv;
};

template <class T>
void add_rows(const std::vector<double>& sums, const std::vector<T*>& rows, int64_t head_dim) {
  for (size_t i = 0; i < sums.size(); ++i) {
    const auto n = static_cast<size_t>(head_dim);
    if (rows[i / n] != nullptr) rows[i / n][i % n] += static_cast<T>(sums[i]);
  }
}

// Of one query, at position `at`:
//   p = exp(score - lse);  dv += p dz;  dscore = p (dz . v - dz . z);  dq and dk from the score
template <class T>
void query_backward(const AttentionBackward& args, const HeadRows<T>& rows, int64_t t, int64_t h,
                    int64_t at, HeadSums& sums) {
  const int64_t head_dim = args.in.head_dim();
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  const T* q = Matrix<T>(args.in.q).row(t) + h * head_dim;
  const T* dz = Matrix<T>(args.dz).row(t) + h * head_dim;
  const double mean = dot(dz, Matrix<T>(args.z).row(t) + h * head_dim, head_dim);
  std::vector<double> dq(static_cast<size_t>(head_dim), 0);
  for_each_seen(args.in.pattern, at, [&](int64_t j) {
    const auto i = static_cast<size_t>(j);
    const double score = scale * dot(q, rows.k[i], head_dim);
    const double p = std::exp(score - Matrix<T>(args.lse)(t, h));
    const double dscore = scale * p * (dot(dz, rows.v[i], head_dim) - mean);
    for (int64_t e = 0; e < head_dim; ++e) {
      const auto place = static_cast<size_t>(j * head_dim + e);
      dq[static_cast<size_t>(e)] += dscore * rows.k[i][e];
      sums.dk[place] += dscore * q[e];
      sums.dv[place] += p * dz[e];
    }
  });
  T* to = Matrix<T>(args.dq).row(t) + h * head_dim;
  for (int64_t e = 0; e < head_dim; ++e) to[e] = static_cast<T>(dq[static_cast<size_t>(e)]);
}

template <class T>
void attention_backward(Device&, const AttentionBackward& args) {
  const AttentionInputs& in = args.in;
  const int64_t head_dim = in.head_dim(), group = in.n_heads / in.n_kv_heads;
  const int64_t* cu = in.seqs.cu_seqlens.data<int64_t>();
  for (int64_t t = 0; t < in.seqs.tokens; ++t) {
    std::fill_n(Matrix<T>(args.dk).row(t), in.k.dim(1), T(0));
    std::fill_n(Matrix<T>(args.dv).row(t), in.k.dim(1), T(0));
  }
  for (int64_t s = 0; s < in.seqs.count(); ++s) {
    const int64_t past = in.past_length(s);
    for (int64_t kv_head = 0; kv_head < in.n_kv_heads; ++kv_head) {
      const HeadRows<T> rows = rows_of<T>(in, in.past, {in.k, in.v}, s, kv_head);
      const std::vector<double> zeros(rows.k.size() * static_cast<size_t>(head_dim), 0);
      HeadSums sums = {zeros, zeros};
      for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
          query_backward(args, rows, t, h, past + t - cu[s], sums);
        }
      }
      const HeadRows<T> grads = rows_of<T>(in, args.dpast, {args.dk, args.dv}, s, kv_head);
      add_rows(sums.dk, grads.k, head_dim);
      add_rows(sums.dv, grads.v, head_dim);
    }
  }
}

}  // namespace

template <class T>
void add_attention(KernelTable& table) {
  table.set<AttentionForward>(attention_forward<T>);
  table.set<AttentionBackward>(attention_backward<T>);
}
template void add_attention<float>(KernelTable&);
template void add_attention<double>(KernelTable&);

}  // namespace elapse::ref
