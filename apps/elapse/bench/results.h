// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "apps/elapse/bench/benchmark.h"
#include "elapse/report/table.h"

namespace elapse::bench {

Table list_of(const std::vector<const Benchmark*>& benchmarks);

// Every row with its distance from the floor, what threads gain over one, and what others take
// where they have published it.
Table table_of(const std::vector<Row>& rows);
// What the columns are, for benchmarks of a GPU or of the host.
std::string_view legend(bool of_gpu);

// [{"name": ..., "value": ..., "unit": ..., "floor": ..., "others": ..., "threads": ...,
// "device": ...}, ...]; a floor, or what others take, that is not known is null.
std::string json_of(const std::vector<Row>& rows, std::string_view device);

}  // namespace elapse::bench
