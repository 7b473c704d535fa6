// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rows.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

template <class Args>
void check_rows(Device& device, const Args& args, const Tensor& table, const Tensor& rows) {
  const ArgumentCheck check(device, Args::kOp, rows.dtype());
  const int64_t count = args.index.numel();
  check.indices("index", args.index, {count});
  check.weight("table", table, {table.dim(0), table.dim(1)});
  check.matrix("rows", rows, {count, table.dim(1)});
  if (!device.host_memory()) return;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = args.index.template data<int64_t>()[i];
    ELAPSE_CHECK(row >= 0 && row < table.dim(0), "{}: index {} at {} is not one of {} rows",
                 name_of(Args::kOp), row, i, table.dim(0));
  }
}

}  // namespace

void gather_rows(Device& device, const GatherRows& args) {
  check_rows(device, args, args.table, args.out);
  device.launch(args.out.dtype(), args);
}

void scatter_add_rows(Device& device, const ScatterAddRows& args) {
  check_rows(device, args, args.dtable, args.dout);
  device.launch(args.dtable.dtype(), args);
}

void likeliest(Device& device, const Likeliest& args) {
  const ArgumentCheck check(device, args.kOp, args.logits.dtype());
  check.matrix("logits", args.logits, {args.logits.dim(0), args.logits.dim(1)});
  check.indices("index", args.index, {args.logits.dim(0)});
  device.launch(args.logits.dtype(), args);
}

}  // namespace elapse
