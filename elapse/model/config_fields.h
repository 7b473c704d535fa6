// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/model/config.h"
#include "elapse/ops/recurrent.h"

// Fields of config.json as both published layouts have them, under names of their own. Reading
// throws Error naming the file, the field, what was expected and what was found.
namespace elapse {

// No published model comes near; sizes beyond are mistakes, and would overflow products of them.
inline constexpr int64_t kMaxSize = int64_t{1} << 24;
inline constexpr int64_t kMamba2State = 128, kMamba2HeadDim = 64, kMamba2Chunk = 256;

int64_t size_field(const Json& json, std::string_view key);
int64_t size_field(const Json& json, std::string_view key, int64_t fallback);
// A positive number below 1 that float32 has.
double epsilon_field(const Json& json, std::string_view key, double fallback);

void expect_flag(const Json& json, std::string_view key, bool expected);
void expect_text(const Json& json, std::string_view key, std::string_view expected);
// A field that says once more what `first` says already.
void expect_same(const Json& json, std::string_view key, int64_t value, std::string_view first);
// Fields that change nothing here, but are true or false where they are there.
void expect_flags(const Json& json, std::initializer_list<std::string_view> keys);
// "head_dim 4", or "head_dim 64 (the default)" where the field is not there.
std::string stated(const Json& json, std::string_view key, int64_t value);

int64_t dt_rank_field(const Json& json, std::string_view key, int64_t automatic);  // or "auto"
int64_t dt_rank_for(int64_t d_model);
Cell cell_of(MixerKind recurrent);

// What both Mamba blocks have in ssm_cfg: expand, d_conv, bias and conv_bias.
void read_block(const Json& ssm_cfg, ModelConfig& c);
void write_block(JsonWriter& json, const ModelConfig& c);

// vocab_size of transformers counts the padded rows; elapse notes beside it how many of them mean
// something, so that a model comes back from that layout as it went in.
void read_vocabulary(const Json& json, ModelConfig& config);
void write_vocabulary(JsonWriter& json, const ModelConfig& c);
std::string_view torch_name(DType dtype);  // "bfloat16"

// Attention's d_inner, head_dim and n_kv_heads: of the fields `heads`, which must be there,
// "head_dim" (else the width by the heads) and `kv_heads` (else as many).
void read_attention_heads(const Json& json, std::string_view heads, std::string_view kv_heads,
                          ModelConfig& config);

// The base of rotary frequencies: above 1, in float32's range.
double rope_theta_field(const Json& json, std::string_view key, double fallback);

// "rope_scaling" as transformers states it: null, of rope_type "default", or "llama3".
RopeScaling read_rope_scaling(const Json& json);
void write_rope_scaling(JsonWriter& json, const RopeScaling& scaling);  // where there is one

// The limits of dt, [least, most]; the published ones are [0.0, Infinity].
void read_dt_limits(const Json& json, std::string_view key, ModelConfig& config);
void write_dt_limits(JsonWriter& json, std::string_view key, const ModelConfig& c);

// `heads`, `groups`: the fields that say how wide a head is and how many groups there are.
void check_heads(const Json& json, const ModelConfig& c, std::string_view heads,
                 std::string_view groups);

}  // namespace elapse
