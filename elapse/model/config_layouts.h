// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/model/config.h"

// What ModelConfig::parse, json and in_layout do in each of the published layouts.
namespace elapse {

ModelConfig parse_transformers(const Json& json);
std::string transformers_json(const ModelConfig& c, DType weights);
void check_transformers_can_state(const ModelConfig& c);  // throws Error unless it can

// Transformers' attention models, whose tensors have names of their own.
bool is_llama_layout(const Json& json);
ModelConfig parse_llama(const Json& json);
std::string llama_json(const ModelConfig& c, DType weights);
void check_llama_can_state(const ModelConfig& c);  // throws Error unless it can

ModelConfig parse_original(const Json& json);
std::string original_json(const ModelConfig& c);
void check_original_can_state(const ModelConfig& c);  // throws Error unless it can

}  // namespace elapse
