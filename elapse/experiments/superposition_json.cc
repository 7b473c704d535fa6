// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/superposition.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

using Result = SuperpositionResult;
using Reconstruction = Result::Reconstruction;
using Computation = Result::Computation;

void write_part(JsonWriter& json, const char* name, const SuperpositionSettings::Part& part) {
  json.key(name)
      .begin_object()
      .field("features", part.features)
      .field("hidden", part.hidden)
      .field("batch", part.training.batch)
      .field("steps", part.training.steps)
      .field("learning_rate", part.training.schedule.peak_lr)
      .end_object();
}

void write_reconstructions(JsonWriter& json, const char* name,
                           const SuperpositionSettings& settings,
                           const Result::Reconstructions& instances) {
  json.key(name).begin_array();
  for (const auto& instance : instances) {
    for (size_t i = 0; i < instance.runs.size(); ++i) {
      const Reconstruction& run = instance.runs[i];
      json.begin_object()
          .field("seed", settings.seed + i)
          .field("probability", instance.task.probability)
          .field("loss", run.loss)
          .field("loss_without_superposition", loss_without_superposition(instance.task))
          .field("dimensions_per_feature", run.geometry.dimensions_per_feature)
          .field("norm", run.geometry.norm)
          .field("superposition", run.geometry.superposition)
          .field("dimensionality", run.geometry.dimensionality)
          .field("b", run.b);
      if (instance.task.hidden == 2) {
        const auto vectors = around_the_circle(run.W, instance.task.features());
        json.field("W", run.W).field("shape", shape_of(vectors));
      }
      json.end_object();
    }
  }
  json.end_array();
}

}  // namespace

std::string superposition_json(const SuperpositionSettings& settings, const Result& r) {
  JsonWriter json;
  json.begin_object()
      .field("experiment", "superposition")
      .field("seed", settings.seed)
      .field("seeds", settings.seeds)
      .field("device", r.device)
      .field("held_out", settings.held_out)
      .key("settings")
      .begin_object();
  write_part(json, "plane", settings.plane);
  write_part(json, "sweep", settings.sweep);
  write_part(json, "absolute", settings.absolute);
  json.end_object();
  write_reconstructions(json, "plane", settings, r.plane);
  write_reconstructions(json, "plane_equal_importance", settings, r.pentagon);
  write_reconstructions(json, "sweep", settings, r.sweep);
  write_reconstructions(json, "sweep_equal_importance", settings, r.uniform);
  json.key("absolute_value").begin_array();
  for (const auto& instance : r.absolute) {
    for (size_t i = 0; i < instance.runs.size(); ++i) {
      const Computation& run = instance.runs[i];
      json.begin_object()
          .field("seed", settings.seed + i)
          .field("probability", instance.task.probability)
          .field("loss", run.loss)
          .field("loss_without_superposition", loss_without_superposition(instance.task))
          .field("epsilon", settings.epsilon)
          .field("computed_by_error", computed_by_error(run))
          .field("computed_by_accuracy", computed_by_accuracy(run))
          .field("error_left", run.error)
          .field("right_where_on", run.right_on)
          .field("right", run.right)
          .end_object();
    }
  }
  return json.end_array().field("seconds", r.seconds).end_object().text();
}

}  // namespace elapse
