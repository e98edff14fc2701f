// transformers' trainer_state.json, as TrainerState.save_to_json writes it and load_from_json reads it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "sft/metrics/log.h"

namespace sft::metrics {

// JSON has no NaN or infinity: they become the strings "NaN", "Infinity" and "-Infinity". Keys that count
// things ("num_...") are whole numbers.
nlohmann::ordered_json json_value(const std::string& key, double value);

std::string trainer_state_json(const LogOptions& options, const TrainerProgress& progress,
                               const nlohmann::json& log_history);

// The log_history of such a file. Error(kInvalidData).
nlohmann::json log_history_of(const std::string& trainer_state_json);

}  // namespace sft::metrics
