// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rotary.h"

#include <algorithm>
#include <cmath>

#include "elapse/ops/check.h"

namespace elapse {
namespace {

// Within them queries and keys leave float32 room for their own size.
constexpr double kMostExponent = 60;

void check_growth(const ArgumentCheck& check, const Rotary& args) {
  double fastest = 0;
  for (const double growth : args.growth) fastest = std::max(fastest, std::abs(growth));
  if (fastest == 0) return;
  for (int64_t s = 0; s < args.seqs.count(); ++s) {
    const int64_t end = args.first_position(s) + args.seqs.lengths[static_cast<size_t>(s)];
    const double most = kMostExponent / fastest;
    check.that(static_cast<double>(end) <= most,
               fmt::format("xPos scales that grow so fast reach position {:.0f}, but sequence {} "
                           "goes to {}",
                           most, s, end));
  }
}

}  // namespace

void rotary(Device& device, const Rotary& args) {
  const ArgumentCheck check(device, args.kOp, args.x.dtype());
  const auto half = std::ssize(args.frequencies);
  check.that(
      args.head_dim > 0 && args.head_dim == 2 * half,
      fmt::format("head_dim: expected twice the {} frequencies, found {}", half, args.head_dim));
  check.that(args.growth.empty() || std::ssize(args.growth) == half,
             fmt::format("growth: expected {} numbers, found {}", half, args.growth.size()));
  check.that(args.first_positions.empty() || std::ssize(args.first_positions) == args.seqs.count(),
             fmt::format("first_positions: expected those of {} sequences, found {}",
                         args.seqs.count(), args.first_positions.size()));
  check.that(args.x.shape().rank() == 2 && args.x.dim(1) % args.head_dim == 0,
             fmt::format("x: expected heads of {} columns, found {}", args.head_dim,
                         args.x.shape().str()));
  check_growth(check, args);
  const Shape shape = {args.seqs.tokens, args.x.dim(1)};
  check.matrix("x", args.x, shape);
  check.matrix("out", args.out, shape);
  device.launch(args.x.dtype(), args);
}

}  // namespace elapse
