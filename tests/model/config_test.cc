// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/model/language_model.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

ModelConfig parsed(const std::string& text) {
  return ModelConfig::parse(Json::parse(text, "config.json"));
}

void expect_refused(const std::string& text, const std::string& part) {
  expect_error([&] { parsed(text); }, part);
}

// The start of a configuration in each layout; `more` opens with a comma.
std::string original(const std::string& more) {
  return R"({"d_model": 8, "n_layer": 2, "vocab_size": 13)" + more + "}";
}
std::string transformers(const std::string& more, const std::string& type = "mamba") {
  return R"({"model_type": ")" + type +
         R"(", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 13)" + more + "}";
}

// state-spaces/mamba-130m, as published.
constexpr const char* kMamba130m = R"({"d_model": 768, "n_layer": 24, "vocab_size": 50277,
  "ssm_cfg": {}, "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true,
  "pad_vocab_size_multiple": 8})";

// state-spaces/mamba-130m-hf, as published.
constexpr const char* kMamba130mHf = R"({"architectures": ["MambaForCausalLM"], "bos_token_id": 0,
  "conv_kernel": 4, "d_inner": 1536, "d_model": 768, "eos_token_id": 0, "expand": 2,
  "fused_add_norm": true, "hidden_act": "silu", "hidden_size": 768, "initializer_range": 0.1,
  "intermediate_size": 1536, "layer_norm_epsilon": 1e-05, "model_type": "mamba", "n_layer": 24,
  "num_hidden_layers": 24, "pad_token_id": 0, "pad_vocab_size_multiple": 8,
  "rescale_prenorm_residual": false, "residual_in_fp32": true, "rms_norm": true, "ssm_cfg": {},
  "state_size": 16, "time_step_floor": 0.0001, "time_step_init_scheme": "random",
  "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 48, "time_step_scale": 1.0,
  "torch_dtype": "float32", "transformers_version": "4.39.0.dev0", "use_bias": false,
  "use_cache": true, "use_conv_bias": true, "vocab_size": 50280})";

// tiiuae/falcon-mamba-7b, as published: its expand is not the one meant.
constexpr const char* kFalconMamba7b = R"({"_name_or_path": "./",
  "architectures": ["FalconMambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4,
  "eos_token_id": 11, "expand": 16, "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.1, "intermediate_size": 8192, "layer_norm_epsilon": 1e-05,
  "model_type": "falcon_mamba", "num_hidden_layers": 64, "pad_token_id": 11,
  "rescale_prenorm_residual": false, "residual_in_fp32": true, "state_size": 16,
  "tie_word_embeddings": false, "time_step_floor": 0.0001, "time_step_init_scheme": "random",
  "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256, "time_step_scale": 1.0,
  "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_bias": false,
  "use_cache": true, "use_conv_bias": true, "vocab_size": 65024})";

// state-spaces/mamba2-130m, as published.
constexpr const char* kMamba2130m = R"({"d_model": 768, "d_intermediate": 0, "n_layer": 24,
  "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {},
  "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true,
  "pad_vocab_size_multiple": 16, "tie_embeddings": true})";

// The same as transformers' conversion writes it.
constexpr const char* kMamba2130mHf = R"({"architectures": ["Mamba2ForCausalLM"],
  "bos_token_id": 0, "chunk_size": 256, "conv_kernel": 4, "eos_token_id": 0, "expand": 2,
  "head_dim": 64, "hidden_act": "silu", "hidden_size": 768, "initializer_range": 0.1,
  "layer_norm_epsilon": 1e-05, "model_type": "mamba2", "n_groups": 1, "norm_before_gate": false,
  "num_heads": 24, "num_hidden_layers": 24, "pad_token_id": 0, "rescale_prenorm_residual": false,
  "residual_in_fp32": true, "rms_norm": true, "state_size": 128, "tie_word_embeddings": true,
  "time_step_floor": 0.0001, "time_step_limit": [0.0, Infinity], "time_step_max": 0.1,
  "time_step_min": 0.001, "time_step_rank": 48, "use_bias": false, "use_cache": true,
  "use_conv_bias": true, "vocab_size": 50288})";

TEST(ModelConfig, mamba_130m_in_both_layouts) {
  for (const char* text : {kMamba130m, kMamba130mHf}) {
    const ModelConfig c = parsed(text);
    EXPECT_EQ(c.vocab(), 50280);
    EXPECT_EQ(c.d_inner, 1536);
    EXPECT_EQ(c.dt_rank, 48);
    EXPECT_EQ(c.parameter_count(), 129135360);
    EXPECT_EQ(c.state_bytes(), 24 * 1536 * (16 + 3) * 4);
    EXPECT_TRUE(c.tied_head);
    EXPECT_EQ(c.architecture(), "mamba");
  }
  EXPECT_EQ(parsed(kMamba130m).vocab_size, 50277);
  EXPECT_EQ(parsed(kMamba130mHf).vocab_size, 50280);
}

TEST(ModelConfig, mamba2_130m_in_both_layouts) {
  for (const char* text : {kMamba2130m, kMamba2130mHf}) {
    const ModelConfig c = parsed(text);
    EXPECT_EQ(c.architecture(), "mamba2");
    EXPECT_EQ(c.vocab(), 50288);
    EXPECT_EQ(c.n_heads(), 24);
    EXPECT_EQ(c.d_state, 128);
    EXPECT_EQ(c.n_groups, 1);
    EXPECT_EQ(c.chunk, 256);
    EXPECT_TRUE(std::isinf(c.dt_max));
    EXPECT_EQ(c.parameter_count(), 128989632);
    EXPECT_EQ(c.state_bytes(), 24 * (1536 * 128 + 1792 * 3) * 4);
    EXPECT_TRUE(c.tied_head);
    EXPECT_EQ(parsed(c.json()), c);
  }
  const ModelConfig c = parsed(kMamba2130m);
  const ModelConfig hf = c.in_layout(Layout::transformers);
  EXPECT_NE(hf.json().find("\"time_step_limit\": [0, Infinity]"), std::string::npos);
  EXPECT_EQ(parsed(hf.json()).in_layout(Layout::original), c);
}

TEST(ModelConfig, mamba2_comes_back_with_every_field_set) {
  const ModelConfig c = parsed(original(R"(, "ssm_cfg": {"layer": "Mamba2", "d_state": 6,
      "d_conv": 3, "expand": 3, "headdim": 4, "d_ssm": 24, "ngroups": 2, "chunk_size": 64,
      "D_has_hdim": true, "dt_limit": [0.01, 2.5], "bias": true, "conv_bias": false}, 
      "tie_embeddings": false)"));
  EXPECT_EQ(c.n_heads(), 6);
  EXPECT_TRUE(c.D_by_channel);
  EXPECT_EQ(c.dt_max, 2.5);
  EXPECT_EQ(parsed(c.json()), c);
  expect_error([&] { c.in_layout(Layout::transformers); }, "one number of D for each head");
}

TEST(ModelConfig, selection_and_gate_are_choices_of_the_original_layout) {
  const ModelConfig published = parsed(original(R"(, "ssm_cfg": {"d_state": 4})"));
  EXPECT_TRUE(published.has_published_selection());
  EXPECT_EQ(published.json().find("selective"), std::string::npos);
  const ModelConfig c =
      parsed(original(R"(, "ssm_cfg": {"d_state": 4, "selective_B": false, "gate": false})"));
  EXPECT_TRUE(c.selective_dt && c.selective_C);
  EXPECT_FALSE(c.selective_B || c.gate);
  EXPECT_EQ(parsed(c.json()), c);
  const int64_t fewer = c.n_layers * (c.d_inner * c.d_model + c.d_inner * 4 - 4);
  EXPECT_EQ(c.parameter_count(), published.parameter_count() - fewer);
  EXPECT_EQ(c.state_bytes(), published.state_bytes());
  expect_error([&] { c.in_layout(Layout::transformers); }, "stays in the original layout");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "Mamba2", "gate": false})"), "gate");
  ModelConfig chosen = ModelConfig::mamba(16, 2, 11);
  chosen.choose_selection(false, false, false, true);
  EXPECT_EQ(chosen.layout, Layout::original);
  expect_error([] { ModelConfig::mamba2(16, 2, 11).choose_selection(true, true, true, false); },
               "a choice of mamba mixers");
}

TEST(ModelConfig, recurrent_cells_in_a_form_of_our_own) {
  const ModelConfig c = parsed(original(R"(, "ssm_cfg": {"layer": "lstm", "hidden_size": 12})"));
  EXPECT_EQ(c.architecture(), "lstm");
  EXPECT_EQ(c.d_inner, 12);
  EXPECT_EQ(c.state_bytes(), c.n_layers * 2 * 12 * 4);
  EXPECT_EQ(parsed(c.json()), c);
  EXPECT_EQ(parsed(original(R"(, "ssm_cfg": {"layer": "gru"})")).d_inner, c.d_model);
  expect_error([&] { c.in_layout(Layout::transformers); }, "no lstm mixers");
  expect_error([&] { c.expect_mamba("this"); }, "this reads what Mamba mixers alone have");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "rnn", "d_state": 16})"),
                 "\"d_state\" is no field of rnn mixers");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "rnn", "hidden_size": 0})"), "hidden_size");
  EXPECT_EQ(mixer_named("gru"), MixerKind::gru);
  expect_error([] { mixer_named("grue"); }, "expected one of mamba, mamba2, rnn, lstm, gru");
}

TEST(ModelConfig, s4d_in_a_form_of_our_own) {
  const ModelConfig c =
      parsed(original(R"(, "ssm_cfg": {"layer": "S4D", "d_state": 6, "init": "inv"})"));
  EXPECT_EQ(c.diagonal_init, DiagonalInit::inv);
  EXPECT_EQ(c.state_bytes(), c.n_layers * c.d_model * 6 * 4);
  EXPECT_EQ(parsed(c.json()), c);
  const ModelConfig real = parsed(original(R"(, "ssm_cfg": {"layer": "S4D", "init": "real"})"));
  EXPECT_EQ(real.d_state, 64);
  EXPECT_EQ(parsed(real.json()), real);
  expect_error([&] { c.in_layout(Layout::transformers); }, "no s4d mixers");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "S4D", "init": "zoh"})"),
                 "expected one of legs, lin, inv, real, found \"zoh\"");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "S4D", "d_state": 7})"),
                 "expected an even number, two for each complex state, found 7");
}

TEST(ModelConfig, h3_in_a_form_of_our_own) {
  const ModelConfig c = parsed(original(R"(, "ssm_cfg": {"layer": "H3", "d_state": 6})"));
  EXPECT_EQ(c.diagonal_init, DiagonalInit::lin);
  EXPECT_EQ(c.state_bytes(), c.n_layers * c.d_model * (6 + 5) * 4);
  EXPECT_EQ(parsed(c.json()), c);
}

TEST(ModelConfig, mlps_and_layer_norms_beside_any_mixer) {
  // Published code rounds the width of its MLPs up.
  const ModelConfig c = parsed(original(R"(, "d_intermediate": 100, "rms_norm": false)"));
  EXPECT_EQ(c.d_intermediate, 128);
  EXPECT_EQ(c.blocks(), 4);
  EXPECT_EQ(c.norm, NormKind::layer);
  const int64_t plain = parsed(original("")).parameter_count();
  EXPECT_EQ(c.parameter_count(), plain + 3 * 8 + 2 * (3 * 128 * 8 + 2 * 8));
  EXPECT_EQ(parsed(c.json()), c);
  EXPECT_EQ(c.json().find("mlp"), std::string::npos);  // no word that published code lacks
  expect_error([&] { c.in_layout(Layout::transformers); }, "mixers without an MLP");
  for (const char* mixer : {"Mamba2", "gru", "attention"}) {
    const ModelConfig other = parsed(original(fmt::format(
        R"(, "ssm_cfg": {{"layer": "{}"{}}}, "d_intermediate": 20, "mlp_multiple_of": 1,
        "mlp": "gelu", "mlp_bias": true, "max_positions": 50)",
        mixer, std::string_view(mixer) == "Mamba2" ? R"(, "headdim": 4)" : "")));
    EXPECT_EQ(other.d_intermediate, 20);
    EXPECT_EQ(other.mlp, MlpKind::gelu);
    EXPECT_EQ(parsed(other.json()), other);
  }
  expect_refused(original(R"(, "mlp": "gelu")"),
                 "\"mlp\": expected a d_intermediate beside it, found none");
  expect_refused(original(R"(, "d_intermediate": 0, "mlp_bias": true)"),
                 "\"mlp_bias\": expected a d_intermediate beside it, found 0");
  expect_refused(original(R"(, "d_intermediate": 16, "mlp": "relu")"),
                 "\"mlp\": expected \"swiglu\", \"gelu\" or \"gelu_tanh\", found \"relu\"");
  expect_refused(original(R"(, "d_intermediate": -1)"), "d_intermediate");
  expect_refused(original(R"(, "d_intermediate": 99999999)"), "at most 16777216");
  expect_refused(original(R"(, "max_positions": 0)"), "max_positions");
}

TEST(ModelConfig, attention_in_a_form_of_our_own) {
  const ModelConfig c = parsed(original(R"(, "norm_eps": 1e-6, "ssm_cfg": {"layer": "attention",
      "num_heads": 6, "num_heads_kv": 2, "head_dim": 10, "positions": "xpos", "rope_theta": 500,
      "window": 7, "dilation": 3, "qkv_proj_bias": true})"));
  EXPECT_EQ(c.d_inner, 60);
  EXPECT_EQ(c.n_kv_heads, 2);
  EXPECT_EQ(c.norm_eps, 1e-6);
  EXPECT_EQ(c.state_bytes(), 0);
  EXPECT_EQ(c.state_bytes_per_token(), 2 * 2 * 2 * 10 * 4);
  EXPECT_EQ(parsed(c.json()), c);
  expect_error([&] { c.in_layout(Layout::transformers); }, "stays in the original layout");
  const ModelConfig plain = parsed(original(R"(, "ssm_cfg": {"layer": "attention"})"));
  EXPECT_EQ(plain.n_heads(), 1);
  EXPECT_EQ(plain, ModelConfig::parse(Json::parse(plain.json(), "config.json")));
  const auto refused = [](const std::string& more, const std::string& part) {
    expect_refused(original(R"(, "ssm_cfg": {"layer": "attention")" + more + "}"), part);
  };
  refused(R"(, "d_state": 16)", "\"d_state\" is no field of attention mixers");
  refused(R"(, "num_heads": 3)", "\"ssm_cfg.num_heads\": 3 does not divide the width 8");
  refused(R"(, "num_heads": 4, "num_heads_kv": 3)",
          "\"ssm_cfg.num_heads_kv\": 3 does not divide num_heads 4");
  refused(R"(, "num_heads": 8, "positions": "rotary")", "expected an even head_dim, found 1");
  refused(R"(, "num_heads_kv": 1)", "expected num_heads beside it, found none");
  refused(R"(, "positions": "alibi")", "\"none\", \"rotary\" or \"xpos\", found \"alibi\"");
  refused(R"(, "positions": "none", "rope_theta": 100)", "there are no positions to rotate");
  refused(R"(, "rope_theta": 1)", "expected a number above 1, found 1");
  refused(R"(, "window": 0)", "window");
  refused(R"(, "num_heads": 16777216, "head_dim": 16777216)", "channels in all heads");
}

TEST(ModelConfig, presets_of_transformers) {
  // A layer of Transformer++ has as many parameters as two of Mamba.
  const ModelConfig c = ModelConfig::transformer_plus_plus(768, 12, 50280);
  EXPECT_EQ(c.d_intermediate, 2048);
  EXPECT_EQ(c.n_heads(), 12);
  EXPECT_EQ(c.parameter_count(), 768 * (50280 + 1) + 12 * (12 * 768 * 768 + 2 * 768));
  EXPECT_EQ(parsed(c.json()), c);
  // gpt2, as published: 124 million.
  const ModelConfig gpt2 = ModelConfig::gpt2(768, 12, 50257);
  EXPECT_EQ(gpt2.parameter_count(), 124439808);
  EXPECT_EQ(parsed(gpt2.json()), gpt2);
}

// TinyLlama/TinyLlama-1.1B-Chat-v1.0 and mistralai/Mistral-7B-v0.1, as published.
constexpr const char* kTinyLlama = R"({"architectures": ["LlamaForCausalLM"],
  "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
  "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32,
  "num_hidden_layers": 22, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
  "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.35.0", "use_cache": true,
  "vocab_size": 32000})";
constexpr const char* kMistral7b = R"({"architectures": ["MistralForCausalLM"], "bos_token_id": 1,
  "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
  "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
  "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0",
  "use_cache": true, "vocab_size": 32000})";

TEST(ModelConfig, llamas) {
  const ModelConfig c = parsed(kTinyLlama);
  EXPECT_EQ(c.architecture(), "llama");
  EXPECT_EQ(c.parameter_count(), 1100048384);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.n_kv_heads, 4);
  EXPECT_EQ(parsed(c.json(DType::bf16)), c);
  EXPECT_EQ(parsed(c.in_layout(Layout::original).json()).in_layout(Layout::transformers).json(),
            [&] {
              ModelConfig without = c;
              without.special_tokens = {};
              return without.json();
            }());
  const ModelConfig mistral = parsed(kMistral7b);
  EXPECT_EQ(mistral.architecture(), "mistral");
  EXPECT_EQ(mistral.parameter_count(), 7241732096);
  EXPECT_EQ(mistral.window, 4096);
  EXPECT_EQ(parsed(mistral.json()), mistral);
}

TEST(ModelConfig, refuses_what_llamas_cannot_be) {
  const auto refused = [](const std::string& more, const std::string& part,
                          const std::string& type = "llama") {
    expect_refused(
        transformers(R"(, "intermediate_size": 12, "num_attention_heads": 4)" + more, type), part);
  };
  expect_refused(transformers("", "llama"), "intermediate_size");
  expect_refused(transformers(R"(, "intermediate_size": 12)", "llama"), "num_attention_heads");
  refused(R"(, "architectures": ["LlamaModel"])",
          "expected \"LlamaForCausalLM\" for model_type \"llama\", found \"LlamaModel\"");
  refused(R"(, "num_key_value_heads": 3)",
          "\"num_key_value_heads\": 3 does not divide num_attention_heads 4");
  refused("", "num_key_value_heads 8 (the default) does not divide num_attention_heads 4",
          "mistral");
  refused(R"(, "head_dim": 3)", "expected an even head_dim, found 3");
  refused(R"(, "hidden_act": "gelu")", "\"hidden_act\": expected \"silu\", found \"gelu\"");
  refused(R"(, "rope_scaling": {"type": "linear", "factor": 2})",
          "\"rope_scaling.type\": expected \"default\" or \"llama3\", found \"linear\"");
  refused(R"(, "rope_parameters": {"rope_type": "yarn"})",
          "\"rope_parameters.rope_type\": expected \"default\" or \"llama3\", found \"yarn\"");
  const auto scaling = [](const char* factors) {
    return fmt::format(R"(, "rope_scaling": {{"rope_type": "llama3",
        "original_max_position_embeddings": 8192, {}}})",
                       factors);
  };
  refused(scaling(R"("factor": 8)"), "low_freq_factor");
  refused(scaling(R"("factor": 0, "low_freq_factor": 1, "high_freq_factor": 4)"),
          "\"rope_scaling.factor\": expected a positive number, found 0");
  refused(scaling(R"("factor": 8, "low_freq_factor": 4, "high_freq_factor": 4)"),
          "\"rope_scaling.high_freq_factor\": 4 is not above low_freq_factor 4");
  refused(R"(, "rope_theta": 0)", "\"rope_theta\": expected a number above 1, found 0");
  refused(R"(, "rms_norm_eps": 0)", "\"rms_norm_eps\": expected a number from");
  refused(R"(, "sliding_window": 0, "num_key_value_heads": 4)", "sliding_window", "mistral");
}

TEST(ModelConfig, falcon_mamba_7b) {
  const ModelConfig c = parsed(kFalconMamba7b);
  EXPECT_EQ(c.architecture(), "falcon_mamba");
  EXPECT_EQ(c.mixer_norm_eps, 1e-6);
  EXPECT_EQ(c.d_inner, 8192);
  EXPECT_EQ(c.special_tokens, (SpecialTokens{{0}, {11}, {11}}));
  EXPECT_FALSE(c.tied_head);
  EXPECT_EQ(c.parameter_count(), 7272665088);
  EXPECT_EQ(parsed(c.json(DType::bf16)), c);
  EXPECT_NE(c.json(DType::bf16).find("\"torch_dtype\": \"bfloat16\""), std::string::npos);
}

TEST(ModelConfig, comes_back_from_either_layout) {
  const ModelConfig c = parsed(kMamba130m);
  const ModelConfig hf = parsed(c.in_layout(Layout::transformers).json());
  EXPECT_EQ(hf.layout, Layout::transformers);
  EXPECT_EQ(hf.vocab_size, 50277);  // although transformers does not pad
  EXPECT_EQ(parsed(hf.in_layout(Layout::original).json()), c);
  const ModelConfig full = parsed(R"({"d_model": 8, "n_layer": 2, "vocab_size": 16})");
  EXPECT_EQ(parsed(full.in_layout(Layout::transformers).json()).in_layout(Layout::original), full);
}

TEST(ModelConfig, says_what_the_original_layout_cannot_state) {
  const auto refused = [](const std::string& text, const std::string& part) {
    expect_error([&] { parsed(text).in_layout(Layout::original); }, part);
  };
  refused(kFalconMamba7b, "no weightless norms");
  refused(transformers(R"(, "layer_norm_epsilon": 1e-6)"), "the norms' epsilon");
  refused(transformers(R"(, "intermediate_size": 12)"), "a multiple of d_model 8: found 12");
}

TEST(ModelConfig, linear_attention_in_a_form_of_our_own) {
  const ModelConfig c = parsed(original(
      R"(, "ssm_cfg": {"layer": "gla", "num_heads": 3, "head_k_dim": 5, "head_v_dim": 7})"));
  EXPECT_EQ(c.mixer, MixerKind::gla);
  EXPECT_EQ(c.n_heads(), 3);
  EXPECT_EQ(c.d_state, 5);
  EXPECT_EQ(c.d_inner, 21);
  EXPECT_EQ(c.state_bytes(), c.n_layers * 21 * 5 * 4);
  EXPECT_EQ(parsed(c.json()), c);
  const ModelConfig plain = ModelConfig::of(MixerKind::linear_attention, 96, 1, 8);
  EXPECT_EQ(plain.n_heads(), 3);  // of 32, which divides 64 and 96
  EXPECT_EQ(plain.state_bytes(), (96 + 3) * 32 * 4);
  const ModelConfig retnet = ModelConfig::of(MixerKind::retnet, 256, 1, 8);
  EXPECT_EQ(retnet.n_heads(), 4);
  EXPECT_EQ(retnet.head_dim, 2 * retnet.d_state);
  const ModelConfig gla = ModelConfig::of(MixerKind::gla, 256, 1, 8);
  EXPECT_EQ(gla.n_heads(), 4);
  EXPECT_EQ(gla.d_state, 32);
  EXPECT_EQ(gla.head_dim, 64);
  expect_refused(original(R"(, "ssm_cfg": {"layer": "retnet", "num_heads": 0})"), "num_heads");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "gla", "num_heads": 65536,
                             "head_k_dim": 65536})"),
                 "channels of keys and of values");
}

TEST(ModelConfig, wavenet_in_a_form_of_our_own) {
  const ModelConfig c = parsed(original(
      R"(, "ssm_cfg": {"layer": "wavenet", "hidden_size": 9, "kernel_size": 3, "dilation_cycle": 2})"));
  EXPECT_EQ(c.d_inner, 9);
  EXPECT_EQ(c.dilation_of(0), 1);
  EXPECT_EQ(c.dilation_of(1), 2);
  EXPECT_EQ(c.dilation_of(2), 1);
  EXPECT_EQ(parsed(c.json()), c);
  const ModelConfig deep = ModelConfig::of(MixerKind::wavenet, 8, 12, 8);
  EXPECT_EQ(deep.dilation_of(9), 512);
  EXPECT_EQ(deep.dilation_of(10), 1);
  EXPECT_EQ(deep.state_bytes(), (1023 + 3) * 8 * 4);
  expect_refused(original(R"(, "ssm_cfg": {"layer": "wavenet", "kernel_size": 5})"),
                 "expected 2 to 4, found 5");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "wavenet", "dilation_cycle": 40})"),
                 "expected 1 to 16, found 40");
}

TEST(ModelConfig, what_it_describes_can_be_counted) {
  constexpr const char* kSize = R"({"d_model": 16777216, "vocab_size": 8, "n_layer": )";
  constexpr const char* kCell = R"(, "ssm_cfg": {"layer": "gru"}})";
  constexpr const char* kStates =
      R"(, "ssm_cfg": {"layer": "S4D", "d_state": 16777216, "init": "lin"}})";
  expect_refused(std::string(kSize) + "65537" + kCell,
                 "expected at most 65536 layers, found 65537");
  for (const char* mixer : {kCell, kStates}) {
    parsed(std::string(kSize) + "8" + mixer);
    expect_refused(std::string(kSize) + "40000" + mixer, "expected at most 2^56 weights");
  }
}

TEST(ModelConfig, as_many_states_as_legs_are_found_for) {
  EXPECT_EQ(parsed(original(R"(, "ssm_cfg": {"layer": "S4D", "d_state": 4096})")).d_state, 4096);
  expect_refused(original(R"(, "ssm_cfg": {"layer": "S4D", "d_state": 4098})"),
                 "expected at most 4096 with init legs, found 4098");
  EXPECT_EQ(parsed(original(R"(, "ssm_cfg": {"layer": "H3", "d_state": 4098})")).d_state, 4098);
}

TEST(ModelConfig, hyena_in_a_form_of_our_own) {
  const ModelConfig c = parsed(original(
      R"(, "ssm_cfg": {"layer": "hyena", "l_max": 40, "filter_order": 5, "emb_dim": 7, "w": 0.5})"));
  EXPECT_EQ(c.l_max, 40);
  EXPECT_EQ(c.filter_order, 5);
  EXPECT_EQ(c.emb_dim, 7);
  EXPECT_EQ(c.sine_freq, 0.5);
  EXPECT_EQ(c.state_bytes(), c.n_layers * c.d_model * (2 * 3 + 39) * 4);
  EXPECT_EQ(parsed(c.json()), c);
  EXPECT_EQ(ModelConfig::of(MixerKind::hyena, 8, 1, 8).l_max, 1024);
  EXPECT_EQ(ModelConfig::of(MixerKind::hyena, 8, 1, 8).sine_freq, 14);
  expect_refused(original(R"(, "ssm_cfg": {"layer": "hyena", "l_max": 1})"),
                 "expected 2 to 1048576 for d_model 8 and emb_dim 33, found 1");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "hyena", "l_max": 1048577})"),
                 "expected 2 to 1048576 for d_model 8 and emb_dim 33, found 1048577");
  expect_refused(
      original(R"(, "ssm_cfg": {"layer": "hyena", "l_max": 1048576, "emb_dim": 16777215})"),
      "expected 2 to 16 for d_model 8 and emb_dim 16777215, found 1048576");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "hyena", "emb_dim": 4})"),
                 "expected an odd number from 3 on, found 4");
  for (const char* w : {"0", "-1", "1000.5", "Infinity", "NaN"}) {
    expect_refused(original(fmt::format(R"(, "ssm_cfg": {{"layer": "hyena", "w": {}}})", w)),
                   "expected a number above 0, to 1000, found");
  }
}

TEST(ModelConfig, names_the_architecture_it_does_not_know) {
  const std::string known =
      "expected \"mamba\", \"mamba2\", \"falcon_mamba\", \"llama\" or \"mistral\" (the "
      "architectures known)";
  expect_refused(transformers("", "mamba3"), known + ", found \"mamba3\"");
  expect_refused(R"({"model_type": "gptj"})", known + ", found \"gptj\"");
  expect_refused(transformers(R"(, "architectures": ["MambaModel"])"),
                 "field \"architectures[0]\": expected \"MambaForCausalLM\" for model_type "
                 "\"mamba\", found \"MambaModel\"");
  const std::string mamba3 = R"(, "ssm_cfg": {"layer": "Mamba3"})";
  expect_refused(original(mamba3), R"(expected one of "Mamba1", "Mamba2", "rnn", "lstm", "gru")");
  expect_refused(original(mamba3), R"((the mixers known), found "Mamba3")");
  expect_refused(transformers(mamba3), "found \"Mamba3\"");
  expect_refused(transformers(R"(, "ssm_cfg": {"layer": "Mamba2"})"),
                 "\"Mamba2\" contradicts model_type \"mamba\"");
  expect_refused(R"({"dim": 4096})", "expected a field \"model_type\"");
}

TEST(ModelConfig, refuses_what_it_does_not_have) {
  expect_refused(original(R"(, "attn_layer_idx": [1])"),
                 "\"attn_layer_idx\": only an empty list (no attention layers)");
  expect_refused(original(R"(, "ssm_cfg": {"headdim": 64})"), "\"headdim\" is no field of Mamba1");
  expect_refused(transformers(R"(, "hidden_act": "gelu")"), "expected \"silu\", found \"gelu\"");
  EXPECT_EQ(parsed(original(R"(, "attn_layer_idx": [], "attn_cfg": {}, "d_intermediate": 0)")),
            parsed(original("")));
}

TEST(ModelConfig, refuses_what_mamba2_cannot_be) {
  const auto refused = [](const std::string& more, const std::string& part) {
    expect_refused(original(R"(, "ssm_cfg": {"layer": "Mamba2", "headdim": 4)" + more + "}"), part);
  };
  refused(R"(, "dt_rank": 2)", "\"dt_rank\" is no field of Mamba2");
  refused(R"(, "rmsnorm": false)", "\"ssm_cfg.rmsnorm\": only true is supported");
  refused(R"(, "norm_before_gate": true)", "only false is supported");
  refused(R"(, "d_ssm": 8)", "\"ssm_cfg.d_ssm\": 8 contradicts the inner width 16");
  refused(R"(, "ngroups": 3)", "ngroups 3 does not divide the 4 heads");
  refused(R"(, "ngroups": 4, "d_state": 9999999)", "at most 16777216 channels of x, B and C");
  refused(R"(, "dt_limit": [0.1])", "\"ssm_cfg.dt_limit\": expected two numbers, found 1");
  refused(R"(, "dt_limit": [0.1, 0.1])",
          "the second larger, in float32 or Infinity, found 0.1 and 0.1");
  refused(R"(, "dt_limit": [NaN, 1])", "or Infinity, found nan and 1");
  expect_refused(original(R"(, "ssm_cfg": {"layer": "Mamba2"})"),
                 "headdim 64 (the default) does not divide the inner width 16");
  const std::string heads = R"(, "head_dim": 4, "n_groups": 1)";
  expect_refused(transformers(heads, "mamba2"),
                 "num_heads 128 (the default) times head_dim 4 contradicts");
  expect_refused(transformers(heads + R"(, "num_heads": 4, "norm_before_gate": true)", "mamba2"),
                 "\"norm_before_gate\": only false is supported");
  expect_refused(transformers(heads + R"(, "num_heads": 3, "intermediate_size": 12)", "mamba2"),
                 "12 contradicts expand 2 (the default) times hidden_size 8");
}

TEST(ModelConfig, refuses_contradictions) {
  expect_refused(transformers(R"(, "expand": 2, "intermediate_size": 17)"),
                 "\"intermediate_size\": 17 contradicts expand 2 times hidden_size 8");
  expect_refused(transformers(R"(, "d_model": 9)"), "\"d_model\": 9 contradicts hidden_size 8");
  expect_refused(transformers(R"(, "n_layer": 3)"), "3 contradicts num_hidden_layers 2");
  expect_refused(transformers(R"(, "d_inner": 24)"), "24 contradicts intermediate_size 16");
  expect_refused(transformers(R"(, "unpadded_vocab_size": 9, "pad_vocab_size_multiple": 8)"),
                 "9 padded to a multiple of 8 contradicts vocab_size 13");
}

TEST(ModelConfig, holds_sizes_to_what_products_of_them_can_take) {
  expect_refused(transformers(R"(, "expand": 16777216, "state_size": 4)"), "an inner width of");
  expect_refused(transformers(R"(, "intermediate_size": 99999999)"), "at most 16777216");
  expect_refused(original(R"(, "ssm_cfg": {"expand": 16000000})"), "an inner width of");
}

TEST(ModelConfig, refuses_numbers_that_float32_does_not_have) {
  for (const char* eps : {"0", "-1e-5", "1e-300", "1", "NaN"}) {
    const std::string number = eps;
    expect_refused(transformers(", \"layer_norm_epsilon\": " + number),
                   "\"layer_norm_epsilon\": expected a number from 1.18e-38 to 1, found ");
    expect_refused(transformers(", \"mixer_rms_eps\": " + number, "falcon_mamba"),
                   "\"mixer_rms_eps\": expected a number from");
  }
  for (const char* limits : {"[0, 1e300]", "[1e39, Infinity]", "[0, 1e-300]", "[1, 1.00000000001]",
                             "[Infinity, Infinity]", "[-1, 1]"}) {
    expect_refused(original(std::string(R"(, "ssm_cfg": {"layer": "Mamba2", "headdim": 4,
                                        "dt_limit": )") +
                            limits + "}"),
                   "\"ssm_cfg.dt_limit\": expected two numbers from 0 up, the second larger, in "
                   "float32 or Infinity, found ");
  }
}

TEST(ModelConfig, refuses_special_tokens_beyond_the_vocabulary) {
  EXPECT_EQ(parsed(transformers(R"(, "eos_token_id": 12)")).special_tokens.eos,
            (std::vector<int64_t>{12}));
  expect_refused(transformers(R"(, "eos_token_id": 13)"),
                 "\"eos_token_id\": expected a token of the vocabulary, 0 to 12, found 13");
  expect_refused(transformers(R"(, "eos_token_id": [0, -1])"), "\"eos_token_id[1]\": expected");
  for (const char* name : {"bos_token_id", "pad_token_id"}) {
    expect_refused(transformers(fmt::format(", \"{}\": 99", name)), name);
  }
}

TEST(ModelConfig, refuses_words_where_a_flag_belongs_that_changes_nothing) {
  for (const char* name : {"residual_in_fp32", "rescale_prenorm_residual", "use_cache"}) {
    expect_refused(transformers(fmt::format(", \"{}\": \"no\"", name)),
                   fmt::format("\"{}\": expected true or false, found \"no\"", name));
  }
  for (const char* name : {"residual_in_fp32", "fused_add_norm"}) {
    expect_refused(original(fmt::format(", \"{}\": 1", name)), "expected true or false, found 1");
  }
  EXPECT_EQ(parsed(original(R"(, "residual_in_fp32": false)")), parsed(original("")));
}

TEST(ModelConfig, lists_the_parameters_and_the_state_of_the_model_made_from_it) {
  Device device("ref");
  for (const auto& [variant, mamba2] :
       {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
    ModelConfig c = mamba2 ? ModelConfig::mamba2(8, 2, 13) : ModelConfig::mamba(8, 2, 13);
    c.bias = c.D_by_channel = variant;
    c.conv_bias = c.tied_head = !variant;
    if (mamba2 && variant) {
      c.head_dim = 4;
      c.n_groups = 2;
    }
    const LanguageModel model(device, c, DType::f32, 1);
    size_t i = 0;
    c.for_each_parameter([&](const std::string& name, const Shape& shape) {
      const Parameter* p = model.parameters().find(name);
      ASSERT_NE(p, nullptr) << name;
      EXPECT_EQ(p->var.value().shape(), shape) << name;
      ++i;
    });
    EXPECT_EQ(i, model.parameters().all().size());
    EXPECT_EQ(c.parameter_count(), model.parameters().count());
    EXPECT_EQ(c.state_bytes(), model.make_state(3).bytes_per_slot());
  }
}

}  // namespace
}  // namespace elapse
